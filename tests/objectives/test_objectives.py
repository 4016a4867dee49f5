"""Conformance of every objective, and the ELBO with a closed-form and with a sampled KL."""

import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi import objectives
from amortvi.errors import OptionError
from amortvi.families import Diagonal, FullCovariance, kl_to_standard_normal
from amortvi.posterior import AmortizedGuide, LogWeights
from amortvi.posterior.log_weights import KLForm
from amortvi.testing import OBJECTIVE_CHECKS
from tests.exact import linear_gaussian, solved
from tests.objectives.problems import estimate

OBJECTIVES = {
    "elbo": objectives.ELBO(),
    "elbo, 5 particles": objectives.ELBO(5),
    "elbo, sampled KL": objectives.ELBO(kl="sampled"),
    "elbo, exact KL": objectives.ELBO(kl="closed_form"),
    "sticking the landing": objectives.ELBO(gradient="sticking_the_landing"),
    "beta-VAE": objectives.ELBO(kl_weight=4.0),
    "free bits": objectives.ELBO(free_bits=0.3),
    "free bits, sampled KL": objectives.ELBO(3, kl="sampled", free_bits=0.3),
    "linear schedule": objectives.ELBO(kl_weight=objectives.LinearSchedule(epochs=5, start=0.1)),
    "all options": objectives.ELBO(
        2, gradient="sticking_the_landing", kl_weight=objectives.CyclicalSchedule(epochs=20), free_bits=0.2
    ),
    "iwae": objectives.IWAE(),
    "iwae, plain gradient": objectives.IWAE(gradient="plain"),
    "iwae, 1 particle": objectives.IWAE(1),
    "renyi": objectives.Renyi(0.5),
    "renyi, plain gradient": objectives.Renyi(0.5, gradient="plain"),
    "renyi, order 1": objectives.Renyi(1.0),
    "renyi, order 2": objectives.Renyi(2.0, 3),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("check", OBJECTIVE_CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[[objectives.Objective], None], objective: objectives.Objective) -> None:
    check(objective)


class _ScaledInside(objectives.Objective):
    """An importance-weighted bound with the scale of a subsampled plate inside the logarithm."""

    def bound(self, weights: LogWeights) -> Tensor:
        scale = 100 / weights.log_weight.shape[1]
        return torch.logsumexp(scale * weights.log_weight, 0) / scale


class _PythonWeight(objectives.Objective):
    """A weight that is a Python number, which a recorded step keeps constant."""

    weight = 0.0

    def advance(self, epochs: float) -> None:
        self.weight = min(1.0, epochs / 10)

    def bound(self, weights: LogWeights) -> Tensor:
        return weights.log_weight.mean(0)

    def surrogate(self, weights: LogWeights, q: object) -> Tensor:
        return weights.reconstruction - self.weight * weights.kl


class _WeightedBound(_PythonWeight):
    """A bound that changes with the weight, so that epochs cannot be compared."""

    def bound(self, weights: LogWeights) -> Tensor:
        return weights.reconstruction - self.weight * weights.kl


class _ScalarSurrogate(_PythonWeight):
    """A surrogate with one value for the whole batch."""

    def surrogate(self, weights: LogWeights, q: object) -> Tensor:
        return weights.log_weight.mean()


class _TooHigh(objectives.Objective):
    """The largest log weight instead of the logarithm of the mean weight."""

    def bound(self, weights: LogWeights) -> Tensor:
        return weights.log_weight.amax(0)


@pytest.mark.parametrize(
    ("faulty", "name", "message"),
    [
        (_ScaledInside(5), "check_batch_size", "depends on the batch size"),
        (_PythonWeight(), "check_can_be_recorded", "differs from an eager one"),
        (_WeightedBound(), "check_bound_stays_the_same", "changes during training"),
        (_ScalarSurrogate(), "check_shape_and_gradient", r"surrogate has shape \(\)"),
        (_TooHigh(20), "check_below_evidence", "exceeds the evidence"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_suite_detects_faults(faulty: objectives.Objective, name: str, message: str) -> None:
    check = next(check for check in OBJECTIVE_CHECKS if check.__name__ == name)
    with pytest.raises(AssertionError, match=message):
        check(faulty)


MODEL = linear_gaussian()
X = MODEL.simulate(40, seed=1)


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_elbo_of_exact_posterior_is_evidence(kl: KLForm) -> None:
    found = estimate(objectives.ELBO(2000, kl=kl), solved(MODEL).guide, X, seed=0)
    if kl == "sampled":
        # At q = p every single weight equals the evidence.
        torch.testing.assert_close(found.weights.log_weight, MODEL.log_evidence(X).expand(2000, -1))
    error = found.weights.log_likelihood.std(0) / math.sqrt(2000)
    assert ((found.bound - MODEL.log_evidence(X)).abs() <= 5 * error + 1e-9).all()


def test_elbo_of_best_diagonal_posterior_has_known_gap() -> None:
    found = estimate(objectives.ELBO(4000), solved(MODEL, Diagonal).guide, X, seed=0)
    gap = (MODEL.log_evidence(X) - found.bound).mean()
    error = found.weights.log_likelihood.std(0).mean() / math.sqrt(4000 * len(X))
    assert abs(gap - MODEL.diagonal_gap()) < 5 * error
    assert MODEL.diagonal_gap() > 20 * error


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_elbo_gradient_is_unbiased(kl: KLForm) -> None:
    """Compare with the exact gradient for a Gaussian posterior of the linear-Gaussian model."""
    guide = solved(MODEL, Diagonal).guide
    head = guide.network.encoder
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.add_(0.1 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))
        head.bias.add_(0.2)
    q = guide.get_posterior(X)
    residual = (X - MODEL.bias - q.mean @ MODEL.W.mT).square().sum(-1)
    spread = (MODEL.W.square() * q.variance.unsqueeze(-2)).sum((-1, -2))
    kl_exact = kl_to_standard_normal(q)
    assert kl_exact is not None
    bound = (-0.5 * (residual + spread) / MODEL.scale.square() - kl_exact).mean()
    exact = torch.cat([part.flatten() for part in torch.autograd.grad(bound, list(head.parameters()))])
    found = []
    for seed in range(400):
        loss = estimate(objectives.ELBO(5, kl=kl), guide, X, seed=seed).loss(None)
        found.append(-torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(head.parameters()))]))
    estimates = torch.stack(found)
    error = estimates.std(0) / math.sqrt(400)
    assert ((estimates.mean(0) - exact).abs() <= 5 * error + 1e-12).all()


def test_sampled_kl_agrees_with_closed_form() -> None:
    guide = solved(MODEL, FullCovariance).guide
    weights = estimate(objectives.ELBO(4000, kl="sampled"), guide, X, seed=0).weights
    exact = kl_to_standard_normal(guide.get_posterior(X))
    assert exact is not None
    assert ((weights.kl - exact).abs() <= 5 * weights.log_ratio.std(0) / math.sqrt(4000)).all()


@pytest.mark.parametrize(
    ("prior", "is_standard"),
    [
        (dist.Normal(torch.zeros(2), 1.0).to_event(1), True),
        (dist.Normal(0.0, 1.0).expand([2]).to_event(1), True),
        (dist.Normal(torch.zeros(2), 2.0).to_event(1), False),
        (dist.Normal(torch.tensor([0.0, 0.1]), 1.0).to_event(1), False),
        (dist.LogNormal(torch.zeros(2), 1.0).to_event(1), False),
        (dist.Normal(nn.Parameter(torch.zeros(2)), 1.0).to_event(1), False),
        (dist.Laplace(torch.zeros(2), 1.0).to_event(1), False),
    ],
    ids=["standard", "expanded", "wide", "shifted", "log-normal", "learned", "Laplace"],
)
def test_closed_form_kl_needs_fixed_standard_normal_prior(prior: object, is_standard: bool) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    guide = AmortizedGuide(model, nn.Flatten(), "diagonal").setup(x)
    assert guide.model.structure.standard_normal_prior is is_standard
    weights = estimate(objectives.ELBO(), guide, x).weights
    assert (weights.closed_form_kl is not None) is is_standard
    if not is_standard:
        with pytest.raises(OptionError, match=r"closed_form.*prior is not a fixed N\(0, I\)"):
            estimate(objectives.ELBO(kl="closed_form"), guide, x)


def test_closed_form_kl_of_a_flow_is_unknown() -> None:
    guide = AmortizedGuide(MODEL, nn.Linear(5, 4, dtype=torch.float64), "flow").setup(X)
    assert estimate(objectives.ELBO(), guide, X).weights.closed_form_kl is None
    with pytest.raises(OptionError, match=r"closed_form.*unknown"):
        estimate(objectives.ELBO(kl="closed_form"), guide, X)


def test_global_terms_are_shared_over_the_data_set() -> None:
    def model(x: Tensor) -> None:
        pyro.factor("penalty", torch.tensor(-30.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(10, generator=torch.Generator().manual_seed(0))
    guide = AmortizedGuide(model, nn.Unflatten(0, (10, 1)), "diagonal").setup(x)
    found = estimate(objectives.ELBO(), guide, x)
    torch.testing.assert_close(found.elbo(300), found.bound.mean() - 0.1)
    torch.testing.assert_close(found.loss(300), -found.elbo(300))


def test_options() -> None:
    with pytest.raises(OptionError, match=r"kl must be .*'exact'"):
        objectives.ELBO(kl="exact")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="particles must be a positive integer; got 0"):
        objectives.ELBO(0)
    with pytest.raises(OptionError, match=r"objective must be one of .*'iwae2'"):
        objectives.make_objective("iwae2")
    assert repr(objectives.make_objective("elbo")) == "ELBO()"
    assert repr(objectives.make_objective("iwae")) == "IWAE()"
    assert repr(objectives.ELBO(3, kl="sampled")) == "ELBO(particles=3, kl='sampled')"
