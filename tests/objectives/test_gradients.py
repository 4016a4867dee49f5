"""What training follows: each gradient estimator against the exact gradient, and the claims about its noise."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from pyro import distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from amortvi import families, models
from amortvi._util.modes import random_state
from amortvi.families.base import Family
from amortvi.model.program import GenerativeModel
from amortvi.posterior.guide import AmortizedGuide
from amortvi.objectives import ELBO, IWAE, LogWeights, Objective, Renyi
from amortvi.objectives.gradients import held_fixed
from amortvi.data import Batch
from tests.any_models import CASES, Case
from tests.objectives.problems import PROBLEMS

ROWS = 200_000


def renyi(alpha: float) -> Callable[[Tensor], Tensor]:
    """The bound as the textbook writes it, of log weights."""
    if alpha == 1:
        return lambda log_weight: log_weight.mean(0)
    return lambda log_weight: (((1 - alpha) * log_weight).logsumexp(0) - math.log(len(log_weight))) / (1 - alpha)


def deviation(estimates: Tensor, exact: Tensor) -> tuple[float, float]:
    """How many standard errors the mean is off at most, and how large these errors are beside the gradient."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    return float(((estimates.mean(0) - exact) / error).abs().max()), float(error.norm() / exact.norm())


ESTIMATORS: dict[str, tuple[Objective, float, int]] = {
    "elbo": (ELBO(kl="sampled"), 1.0, 1),
    "sticking the landing": (ELBO(gradient="sticking_the_landing"), 1.0, 1),
    "iwae, plain": (IWAE(2, gradient="plain"), 0.0, 2),
    "iwae, dreg": (IWAE(2), 0.0, 2),
    **{
        f"renyi {alpha}, {gradient}": (Renyi(alpha, 2, gradient=gradient), alpha, 2)
        for alpha in (-1.0, 0.5, 1.0, 2.0)
        for gradient in ("plain", "dreg")
    },
}
"""The objective, its order, and how many draws the integral has."""


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
@pytest.mark.parametrize(("objective", "order", "draws"), ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_gradient_is_unbiased(objective: Objective, order: float, draws: int, problem) -> None:
    """For the posterior's parameters and the model's, against quadrature over all draws."""
    exact = problem.exact_gradient(renyi(order), draws)
    off, relative_error = deviation(problem.gradients(objective, ROWS), exact)
    assert off < 5
    # Nothing that matters could hide in the tolerance.
    assert relative_error < 0.005


class _ScoreLeftOut(Objective):
    """The importance-weighted bound without the score: right for one draw, wrong for several."""

    def holds_density_fixed(self) -> bool:
        return True

    def bound(self, weights: LogWeights) -> Tensor:
        return torch.logsumexp(weights.log_weight, dim=0) - math.log(self.particles)


def test_leaving_the_score_out_of_several_draws_is_biased() -> None:
    """What these tests are to notice, and why the doubly reparameterized gradient is more than that."""
    problem = PROBLEMS["a learned prior"]
    off, _ = deviation(problem.gradients(_ScoreLeftOut(2), ROWS), problem.exact_gradient(renyi(0.0), 2))
    assert off > 20


def _slope(counts: list[int], values: list[float]) -> float:
    """Of the logarithms, by least squares."""
    x, y = (torch.tensor(part, dtype=torch.float64).log() for part in (counts, values))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def test_doubly_reparameterized_signal_does_not_fade() -> None:
    """Its ratio of mean to standard deviation rises as sqrt(K), that of the plain one falls as 1 / sqrt(K)."""
    # Wider than the posterior, so that the weights have a finite variance.
    problem = replace(PROBLEMS["a learned prior"], phi=(0.6, 0.3))
    counts = [16, 64, 256]
    ratios: dict[str, list[list[float]]] = {"dreg": [], "plain": [], "model": []}
    for count in counts:
        dreg = problem.gradients(IWAE(count), 320_000 // count)
        plain = problem.gradients(IWAE(count, gradient="plain"), 320_000 // count)
        # Both have this mean; the plain one's own estimate of it is mostly noise.
        mean = dreg.mean(0).abs()
        ratios["dreg"].append((mean / dreg.std(0))[:2].tolist())
        ratios["plain"].append((mean / plain.std(0))[:2].tolist())
        ratios["model"].append((mean / plain.std(0))[2:].tolist())
    slopes = {
        name: [_slope(counts, list(column)) for column in zip(*rows, strict=True)] for name, rows in ratios.items()
    }
    assert slopes["dreg"] == pytest.approx([0.5, 0.5], abs=0.1)
    assert slopes["plain"] == pytest.approx([-0.5, -0.5], abs=0.1)
    # The model's plain gradient gains from more draws.
    assert min(slopes["model"]) > 0.3


LOADINGS = torch.tensor([[1.0, 0.8, 0.1], [0.2, 1.0, 0.4], [0.5, -0.5, 0.9], [0.3, 0.2, 0.1]], dtype=torch.float64)


def _at_the_posterior() -> tuple[models.LinearGaussian, AmortizedGuide, Tensor]:
    """A guide whose posterior is the exact one for every observation."""
    model = models.LinearGaussian(LOADINGS, scale=0.6)
    precision = model.precision()
    cholesky = torch.linalg.cholesky(torch.linalg.inv(precision))
    log_scale = cholesky.diagonal().log()
    rows, columns = torch.tril_indices(3, 3, offset=-1)
    encoder = nn.Linear(4, 9, dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:3] = torch.linalg.solve(precision, LOADINGS.mT) / model.scale.square()
        encoder.bias.copy_(
            torch.cat([torch.zeros(3), log_scale, (cholesky / log_scale.exp().unsqueeze(-1))[rows, columns]])
        )
    x = model.simulate(20, seed=1)
    return model, AmortizedGuide(model, encoder, partial(families.FullCovariance, head=False)).setup(x), x


def _gradient(objective: Objective, model, guide: AmortizedGuide, *args: Tensor, seed: int = 0) -> Tensor:
    with random_state(seed):
        loss = objective.estimate(GenerativeModel(model), guide, Batch(args)).loss(None)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(guide.parameters()))])


@pytest.mark.parametrize(
    ("quiet", "noisy"),
    [
        (ELBO(gradient="sticking_the_landing"), ELBO(kl="sampled")),
        (ELBO(gradient="sticking_the_landing"), ELBO()),
        (IWAE(5), IWAE(5, gradient="plain")),
        (Renyi(0.5, 5), Renyi(0.5, 5, gradient="plain")),
    ],
    ids=["elbo, sampled", "elbo, exact KL", "iwae", "renyi"],
)
def test_gradient_vanishes_at_the_exact_posterior(quiet: Objective, noisy: Objective) -> None:
    """In every single estimate, where the gradient that has the score in it is noise."""
    model, guide, x = _at_the_posterior()
    for seed in range(3):
        assert _gradient(quiet, model, guide, x, seed=seed).abs().max() < 1e-12
        assert _gradient(noisy, model, guide, x, seed=seed).abs().max() > 0.02


class _WithItsOwnScale(Family):
    """A family with a parameter that no observation's parameters hold."""

    def __init__(self, dim: int, context_features: int) -> None:
        super().__init__(dim, context_features, num_parameters=dim, head=False)
        self.log_scale = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def distribution(self, parameters: Tensor) -> TorchDistribution:
        return dist.Normal(parameters, self.log_scale.exp()).to_event(1)


def test_a_familys_own_parameters_are_held_fixed_too() -> None:
    family = _WithItsOwnScale(2, 2)
    parameters = torch.tensor([[0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    draw = torch.tensor([[[0.3, 0.4]]], dtype=torch.float64, requires_grad=True)
    log_q = held_fixed(family, parameters)(draw)
    assert torch.equal(log_q, family.distribution(parameters).log_prob(draw))
    gradients = torch.autograd.grad(log_q.sum(), [draw, parameters, family.log_scale], allow_unused=True)
    torch.testing.assert_close(gradients[0], (parameters - draw).detach())
    assert gradients[1] is None
    assert gradients[2] is None
    assert family.log_scale.requires_grad


def test_sticking_the_landing_with_a_familys_own_parameters() -> None:
    model = models.LinearGaussian(torch.eye(2, dtype=torch.float64), scale=1.0)
    encoder = nn.Linear(2, 2, dtype=torch.float64)
    x = model.simulate(20, seed=0)
    guide = AmortizedGuide(model, encoder, _WithItsOwnScale).setup(x)
    with torch.no_grad():
        encoder.weight.copy_(0.5 * torch.eye(2))
        encoder.bias.zero_()
        guide.family.log_scale.fill_(-0.5 * math.log(2))
    assert _gradient(ELBO(gradient="sticking_the_landing"), model, guide, x).abs().max() < 1e-12
    assert _gradient(ELBO(), model, guide, x).abs().max() > 0.02


SUPPORTS = ("many supports", "a Cholesky factor", "a plate on the right", "one latent on another", "a learned prior")


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize(
    ("one", "other"),
    [(IWAE(3), IWAE(3, gradient="plain")), (ELBO(gradient="sticking_the_landing"), ELBO())],
    ids=["iwae", "elbo"],
)
def test_any_support(name: str, one: Objective, other: Objective) -> None:
    """Simplices, Cholesky factors, nested plates: the mean gradient of one observation is that of the plain estimator."""
    case: Case = CASES[name]
    rows = 10_000
    args = tuple(value[:1].double().expand(rows, *value.shape[1:]) for value in case.args)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GenerativeModel(case.make()).double()
        probe = AmortizedGuide(model, nn.Flatten(), "full").setup(*(value[:2] for value in args))
        parameters = 0.3 * torch.randn(probe.family.num_parameters, dtype=torch.float64)
        # Narrow, so that no exponential of a draw takes all there is in a mean.
        parameters[probe.latents.dim : 2 * probe.latents.dim] -= 1.5
        encoder = _Rows(parameters, rows)
    guide = AmortizedGuide(model, encoder, partial(families.FullCovariance, head=False)).setup(*args)
    found = []
    for seed, objective in enumerate((one, other)):
        with random_state(seed):
            loss = objective.estimate(model, guide, Batch(args)).loss(rows)
        found.append(torch.autograd.grad(-rows * loss, encoder.rows)[0])
    first, second = found
    error = ((first.var(0) + second.var(0)) / rows).sqrt()
    assert ((first.mean(0) - second.mean(0)).abs() < 5 * error).all()
    assert error.norm() < 0.05 * second.mean(0).norm()


class _Rows(nn.Module):
    """Gives each observation parameters of its own, all the same to begin with."""

    def __init__(self, parameters: Tensor, rows: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(parameters.repeat(rows, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.rows[: inputs[0].shape[0]]
