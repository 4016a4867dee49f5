"""Conformance of every objective, and the ELBO: its closed-form and sampled forms, and its gradient."""

import math
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortvi import families, models, objectives
from amortvi._util.modes import random_state
from amortvi.errors import OptionError
from amortvi.model.program import GenerativeModel
from amortvi.posterior.guide import AmortizedGuide
from amortvi.objectives.elbo import KLForm
from amortvi.data import Batch
from amortvi.testing import OBJECTIVE_CHECKS

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
    "all at once": objectives.ELBO(
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
    """The importance-weighted bound as it goes wrong: a subsampled plate's scale inside the logarithm."""

    def bound(self, weights: objectives.LogWeights) -> torch.Tensor:
        scale = 100 / weights.log_weight.shape[1]
        return torch.logsumexp(scale * weights.log_weight, 0) / scale


class _CountsInPython(objectives.Objective):
    """A weight that a recorded step would hold fixed."""

    weight = 0.0

    def advance(self, epochs: float) -> None:
        self.weight = min(1.0, epochs / 10)

    def bound(self, weights: objectives.LogWeights) -> torch.Tensor:
        return weights.log_weight.mean(0)

    def surrogate(self, weights: objectives.LogWeights, posterior: object, guide: AmortizedGuide) -> torch.Tensor:
        return weights.reconstruction - self.weight * weights.kl


class _ReportsItsWeight(_CountsInPython):
    """A bound that rises as its weight does, and means another thing in each epoch."""

    def bound(self, weights: objectives.LogWeights) -> torch.Tensor:
        return weights.reconstruction - self.weight * weights.kl


class _SurrogateOfTheBatch(_CountsInPython):
    """One number for all observations."""

    def surrogate(self, weights: objectives.LogWeights, posterior: object, guide: AmortizedGuide) -> torch.Tensor:
        return weights.log_weight.mean()


class _TooHigh(objectives.Objective):
    """The largest weight, as if it were the mean one."""

    def bound(self, weights: objectives.LogWeights) -> torch.Tensor:
        return weights.log_weight.amax(0)


@pytest.mark.parametrize(
    ("faulty", "name", "message"),
    [
        (_ScaledInside(5), "check_batch_size", "depends on the batch's size"),
        (_CountsInPython(), "check_can_be_recorded", "a recorded step is another than an eager one"),
        (_ReportsItsWeight(), "check_bound_stays_the_same", "changes while training"),
        (_SurrogateOfTheBatch(), "check_shape_and_gradient", r"the surrogate has shape \(\), expected"),
        (_TooHigh(20), "check_below_evidence", "exceeds the evidence"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_suite_catches(faulty: objectives.Objective, name: str, message: str) -> None:
    check = next(check for check in OBJECTIVE_CHECKS if check.__name__ == name)
    with pytest.raises(AssertionError, match=message):
        check(faulty)


LOADINGS = torch.tensor([[1.0, 0.8, 0.1], [0.2, 1.0, 0.4], [0.5, -0.5, 0.9], [0.3, 0.2, 0.1]], dtype=torch.float64)


def _exact(family: str) -> tuple[models.LinearGaussian, AmortizedGuide, torch.Tensor]:
    """A guide that is the exact posterior, or the best diagonal one: its means are linear in x, its scale is constant."""
    model = models.LinearGaussian(LOADINGS, scale=0.6)
    x = model.simulate(40, seed=1)
    precision = model.precision()
    if family == "full":
        cholesky = torch.linalg.cholesky(torch.linalg.inv(precision))
        log_scale = cholesky.diagonal().log()
        rows, columns = torch.tril_indices(3, 3, offset=-1)
        scale = torch.cat([log_scale, (cholesky / log_scale.exp().unsqueeze(-1))[rows, columns]])
    else:
        scale = -0.5 * precision.diagonal().log()
    encoder = torch.nn.Linear(4, 3 + len(scale), dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.zero_()
        encoder.weight[:3] = torch.linalg.solve(precision, LOADINGS.mT) / model.scale.square()
        encoder.bias[3:] = scale
    choice = families.FullCovariance if family == "full" else families.Diagonal
    return model, AmortizedGuide(model, encoder, partial(choice, head=False)).setup(x), x


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_exact_posterior_reaches_the_evidence(kl: KLForm) -> None:
    model, guide, x = _exact("full")
    with random_state(0), torch.no_grad():
        estimate = objectives.ELBO(2000, kl=kl).estimate(GenerativeModel(model), guide, Batch((x,)))
    if kl == "sampled":
        # At q = p every single weight is the evidence: there is no noise at all.
        torch.testing.assert_close(estimate.weights.log_weight, model.log_evidence(x).expand(2000, -1))
    spread = estimate.weights.log_likelihood.std(0) / math.sqrt(2000)
    assert ((estimate.bound - model.log_evidence(x)).abs() <= 5 * spread + 1e-9).all()


def test_best_diagonal_posterior_loses_the_known_gap() -> None:
    model, guide, x = _exact("diagonal")
    with random_state(0), torch.no_grad():
        estimate = objectives.ELBO(4000).estimate(GenerativeModel(model), guide, Batch((x,)))
    gap = (model.log_evidence(x) - estimate.bound).mean()
    error = estimate.weights.log_likelihood.std(0).mean() / math.sqrt(4000 * len(x))
    assert abs(gap - model.diagonal_gap()) < 5 * error
    assert model.diagonal_gap() > 0.1


@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_gradient_is_unbiased(kl: KLForm) -> None:
    """Against the exact gradient of the ELBO of a Gaussian posterior on the linear-Gaussian model."""
    model, guide, x = _exact("diagonal")
    head = guide._modules["encoder"]
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.add_(0.1 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))
        head.bias.add_(0.2)
    q = guide.get_posterior(x)
    residual = (x - q.mean @ LOADINGS.mT).square().sum(-1)
    spread = (LOADINGS.square() * q.variance.unsqueeze(-2)).sum((-1, -2))
    expected_fit = -0.5 * (residual + spread) / model.scale.square()
    exact = torch.autograd.grad((expected_fit - q.kl_standard_normal()).mean(), list(head.parameters()))
    estimates = []
    with random_state(0):
        for _ in range(400):
            bound = objectives.ELBO(5, kl=kl).estimate(GenerativeModel(model), guide, Batch((x,))).bound.mean()
            estimates.append(torch.cat([g.flatten() for g in torch.autograd.grad(bound, list(head.parameters()))]))
    stacked = torch.stack(estimates)
    error = (stacked.mean(0) - torch.cat([g.flatten() for g in exact])).abs()
    assert (error <= 5 * stacked.std(0) / math.sqrt(400) + 1e-12).all()


def test_sampled_kl_agrees_with_the_closed_form() -> None:
    model, guide, x = _exact("full")
    with random_state(0), torch.no_grad():
        weights = objectives.ELBO(4000, kl="sampled").estimate(GenerativeModel(model), guide, Batch((x,))).weights
        exact = guide.get_posterior(x).kl_standard_normal()
    assert ((weights.kl - exact).abs() <= 5 * weights.log_ratio.std(0) / math.sqrt(4000)).all()


@pytest.mark.parametrize(
    ("prior", "is_standard"),
    [
        (dist.Normal(torch.zeros(2), 1.0).to_event(1), True),
        (dist.Normal(0.0, 1.0).expand([2]).to_event(1), True),
        (dist.Normal(torch.zeros(2), 2.0).to_event(1), False),
        (dist.Normal(torch.tensor([0.0, 0.1]), 1.0).to_event(1), False),
        (dist.LogNormal(torch.zeros(2), 1.0).to_event(1), False),
        (dist.Normal(torch.nn.Parameter(torch.zeros(2)), 1.0).to_event(1), False),
        (dist.Laplace(torch.zeros(2), 1.0).to_event(1), False),
    ],
    ids=["standard", "expanded", "wide", "shifted", "log-normal", "learned", "Laplace"],
)
def test_closed_form_kl_is_taken_only_for_a_fixed_standard_normal_prior(prior: object, is_standard: bool) -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.randn(5, 2)
    guide = AmortizedGuide(model, torch.nn.Flatten(), "diagonal").setup(x)
    assert guide.prototype.standard_normal_prior is is_standard
    assert objectives.ELBO().takes_closed_form_kl(guide) is is_standard
    if not is_standard:
        with pytest.raises(OptionError, match=r"the model's prior is not a fixed N\(0, I\); use kl='auto'"):
            objectives.ELBO(kl="closed_form").estimate(GenerativeModel(model), guide, Batch((x,)))


def test_global_terms_are_shared_over_the_data_set() -> None:
    def model(x: torch.Tensor) -> None:
        pyro.factor("penalty", torch.tensor(-30.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(10)
    guide = AmortizedGuide(model, torch.nn.Unflatten(0, (10, 1)), "diagonal").setup(x)
    estimate = objectives.ELBO().estimate(GenerativeModel(model), guide, Batch((x,)))
    torch.testing.assert_close(estimate.elbo(300), estimate.bound.mean() - 0.1)
    torch.testing.assert_close(estimate.loss(300), -estimate.elbo(300))


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="kl must be 'auto', 'closed_form' or 'sampled'; got 'exact'"):
        objectives.ELBO(kl="exact")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="particles must be a positive integer; got 0"):
        objectives.ELBO(0)
    with pytest.raises(OptionError, match=r"objective must be one of .*got 'iwae2'"):
        objectives.make_objective("iwae2")
    assert repr(objectives.make_objective("elbo")) == "ELBO(particles=1, kl='auto')"
