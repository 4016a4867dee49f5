"""Gradient estimators: unbiased, with the noise that their papers claim."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution

from amortvi import models
from amortvi._util.random import random_state
from amortvi.families import Diagonal, Family, Flow, FullCovariance, LowRank, ParametricFamily
from amortvi.objectives import ELBO, IWAE, Objective, Renyi
from amortvi.objectives.gradients import stop_score_gradient
from amortvi.posterior import AmortizedGuide, LogWeights
from tests.any_models import CASES, Case
from tests.exact import Fixed, linear_gaussian, solved
from tests.objectives.problems import PROBLEMS, Problem, estimate

ROWS = 100_000


def renyi(alpha: float) -> Callable[[Tensor], Tensor]:
    """Return Renyi's bound as a function of log weights, from its definition."""
    if alpha == 1:
        return lambda log_weight: log_weight.mean(0)
    return lambda log_weight: (((1 - alpha) * log_weight).logsumexp(0) - math.log(len(log_weight))) / (1 - alpha)


def deviation(estimates: Tensor, exact: Tensor) -> tuple[float, float]:
    """Return the largest error of the mean in standard errors, and the norm of the standard errors relative to ``exact``."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    return float(((estimates.mean(0) - exact) / error).abs().max()), float(error.norm() / exact.norm())


ESTIMATORS: dict[str, tuple[Objective, float, int]] = {
    "elbo": (ELBO(kl="sampled", gradient="reparameterized"), 1.0, 1),
    "sticking the landing": (ELBO(gradient="sticking_the_landing"), 1.0, 1),
    "iwae, plain": (IWAE(2, gradient="plain"), 0.0, 2),
    "iwae, dreg": (IWAE(2), 0.0, 2),
    **{
        f"renyi {alpha}, {gradient}": (Renyi(alpha, 2, gradient=gradient), alpha, 2)
        for alpha in (-1.0, 0.5, 1.0, 2.0)
        for gradient in ("plain", "dreg")
    },
}
"""For each estimator its objective, the order of the bound, and the number of draws over which the integral extends."""


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
@pytest.mark.parametrize(("objective", "order", "draws"), ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_gradient_is_unbiased(objective: Objective, order: float, draws: int, problem: Problem) -> None:
    """Compare the gradients of posterior and model with quadrature over all draws."""
    exact = problem.exact_gradient(renyi(order), draws)
    largest, relative = deviation(problem.gradients(objective, ROWS), exact)
    assert largest < 5
    assert relative < 0.01  # so a relevant bias cannot hide in the tolerance


class _NoScore(Objective):
    """The importance-weighted bound without the score, which is a biased gradient for several draws."""

    def stops_score_gradient(self, q: Distribution) -> bool:
        return True

    def bound(self, weights: LogWeights) -> Tensor:
        return torch.logsumexp(weights.log_weight, dim=0) - math.log(self.particles)


def test_bias_of_omitted_score_is_detected() -> None:
    problem = PROBLEMS["learned prior"]
    largest, _ = deviation(problem.gradients(_NoScore(2), ROWS), problem.exact_gradient(renyi(0.0), 2))
    assert largest > 20


def _slope(counts: list[int], values: list[float]) -> float:
    """Return the slope of ``log(values)`` over ``log(counts)`` by least squares."""
    x, y = (torch.tensor(part, dtype=torch.float64).log() for part in (counts, values))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def test_signal_of_doubly_reparameterized_gradient_grows_with_draws() -> None:
    """Its ratio of mean to standard deviation rises as sqrt(K), while that of the plain gradient falls as 1 / sqrt(K)."""
    # A posterior wider than the exact one, so that the weights have a finite variance.
    problem = replace(PROBLEMS["learned prior"], phi=(0.6, 0.3))
    counts = [16, 64, 256]
    ratios: dict[str, list[list[float]]] = {"dreg": [], "plain": [], "model": []}
    for count in counts:
        dreg = problem.gradients(IWAE(count), 1_000_000 // count)
        plain = problem.gradients(IWAE(count, gradient="plain"), 320_000 // count)
        # Both have this mean, but the estimate from the plain gradient is mostly noise.
        mean = dreg.mean(0).abs()
        ratios["dreg"].append((mean / dreg.std(0))[:2].tolist())
        ratios["plain"].append((mean / plain.std(0))[:2].tolist())
        ratios["model"].append((mean / plain.std(0))[2:].tolist())
    slopes = {
        name: [_slope(counts, list(column)) for column in zip(*rows, strict=True)] for name, rows in ratios.items()
    }
    assert slopes["dreg"] == pytest.approx([0.5, 0.5], abs=0.2)
    assert slopes["plain"] == pytest.approx([-0.5, -0.5], abs=0.2)
    # The plain gradient of the model improves with more draws.
    assert min(slopes["model"]) > 0.3


def _gradient(objective: Objective, guide: AmortizedGuide, x: Tensor, seed: int = 0) -> Tensor:
    loss = estimate(objective, guide, x, seed=seed).loss(None)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(guide.parameters()))])


@pytest.mark.parametrize(
    ("quiet", "noisy"),
    [
        (ELBO(gradient="sticking_the_landing"), ELBO(kl="sampled", gradient="reparameterized")),
        (ELBO(gradient="sticking_the_landing"), ELBO(gradient="reparameterized")),
        (IWAE(5), IWAE(5, gradient="plain")),
        (Renyi(0.5, 5), Renyi(0.5, 5, gradient="plain")),
    ],
    ids=["elbo, sampled KL", "elbo, exact KL", "iwae", "renyi"],
)
def test_gradient_without_score_vanishes_at_the_exact_posterior(quiet: Objective, noisy: Objective) -> None:
    """This holds for every single estimate; the gradient that includes the score is noise there."""
    model = linear_gaussian()
    guide, x = solved(model).guide, model.simulate(20, seed=1)
    for seed in range(3):
        assert _gradient(quiet, guide, x, seed).abs().max() < 1e-6  # the posterior is exact to about 1e-8
        assert _gradient(noisy, guide, x, seed).abs().max() > 0.02


class _LearnedScale(ParametricFamily):
    """A family with a parameter that all observations share."""

    @property
    def num_parameters(self) -> int:
        return self.dim

    def build(self) -> None:
        super().build()
        self.log_scale = nn.Parameter(torch.zeros(self.dim, dtype=torch.float64))

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        return dist.Normal(parameters, self.log_scale.exp()).to_event(1)


FAMILIES: dict[str, Callable[[], Family]] = {
    "diagonal": Diagonal,
    "low rank": lambda: LowRank(rank=1),
    "full": FullCovariance,
    "flow": lambda: Flow(transforms=2, hidden=(8,)),
    "learned scale": _LearnedScale,
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
def test_stopped_density_depends_on_the_draws_alone(make: Callable[[], Family]) -> None:
    """The density has a gradient with respect to the draws, and none with respect to context or family."""
    with random_state(0):
        family = make().setup(dim=2, context_features=3).double()
        context = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        draws = torch.randn(6, 4, 2, dtype=torch.float64, requires_grad=True)
    log_q, expected = stop_score_gradient(family, context)(draws), family(context).log_prob(draws)
    torch.testing.assert_close(log_q, expected)
    inputs = [draws, context, *family.parameters()]
    found = torch.autograd.grad(log_q.sum(), inputs, allow_unused=True)
    torch.testing.assert_close(found[0], torch.autograd.grad(expected.sum(), draws)[0])
    assert found[1:] == (None,) * (len(inputs) - 1)
    assert all(parameter.requires_grad for parameter in family.parameters())


def test_sticking_the_landing_with_parameters_that_observations_share() -> None:
    model = models.LinearGaussian(torch.eye(2, dtype=torch.float64), scale=1.0)
    x = model.simulate(20, seed=0)
    encoder = nn.Linear(2, 2, dtype=torch.float64)
    guide = AmortizedGuide(model, encoder, _LearnedScale(head=False)).setup(x)
    with torch.no_grad():
        encoder.weight.copy_(0.5 * torch.eye(2))
        encoder.bias.zero_()
        guide.family.log_scale.fill_(-0.5 * math.log(2))
    assert _gradient(ELBO(gradient="sticking_the_landing"), guide, x).abs().max() < 1e-12
    assert _gradient(ELBO(gradient="reparameterized"), guide, x).abs().max() > 0.02


SUPPORTS = ("many supports", "a Cholesky factor", "a plate on the right", "one latent on another", "a learned prior")
PAIRS = {
    "iwae": (IWAE(3), IWAE(3, gradient="plain")),
    "elbo": (ELBO(gradient="sticking_the_landing"), ELBO(gradient="reparameterized")),
}


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS.keys())
def test_gradient_forms_agree_for_any_support(name: str, one: Objective, other: Objective) -> None:
    """Simplices, Cholesky factors and nested plates: the estimators have the same mean gradient."""
    first, second = (_row_gradients(CASES[name], objective, seed) for seed, objective in enumerate((one, other)))
    error = ((first.var(0) + second.var(0)) / len(first)).sqrt()
    assert ((first.mean(0) - second.mean(0)).abs() < 5 * error).all()
    assert error.norm() < 0.05 * second.mean(0).norm()


def _row_gradients(case: Case, objective: Objective, seed: int, rows: int = 10_000) -> Tensor:
    """Return independent estimates of the gradient for the parameters of one observation, ``(rows, P)``."""
    args = tuple(value[:1].double().expand(rows, *value.shape[1:]) for value in case.args)
    program = case.make()
    program = program.double() if isinstance(program, nn.Module) else program
    probe = AmortizedGuide(program, nn.Flatten(), "full").setup(*(value[:2] for value in args))
    generator = torch.Generator().manual_seed(0)
    parameters = 0.3 * torch.randn(probe.family.num_parameters, dtype=torch.float64, generator=generator)
    # Narrow, so that no exponential of a draw dominates a mean.
    parameters[probe.latents.dim : 2 * probe.latents.dim] -= 1.5
    encoder = Fixed(parameters.repeat(rows, 1))
    guide = AmortizedGuide(program, encoder, FullCovariance(head=False)).setup(*args)
    loss = estimate(objective, guide, *args, seed=seed).loss(rows)
    return torch.autograd.grad(-rows * loss, encoder.parameters_)[0]
