"""The importance-weighted bound and Renyi's bound, compared with the exact evidence and with each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.errors import OptionError
from amortvi.families import Diagonal, Draws
from amortvi.objectives import ELBO, IWAE, Objective, Renyi
from amortvi.posterior import LogWeights
from tests.exact import linear_gaussian, solved
from tests.objectives.problems import PROBLEMS, estimate

MODEL = linear_gaussian()
X = MODEL.simulate(24, seed=3)
EVIDENCE = MODEL.log_evidence(X)
GUIDE = solved(MODEL, Diagonal).guide  # the best diagonal posterior, whose gap to the evidence is known
PROBLEM = PROBLEMS["learned prior"]


def bounds(objective: Objective, runs: int, batch_size: int = 24) -> Tensor:
    """Return the bound of each observation from independent draws, computed in batches, ``(runs, 24)``."""
    with random_state(0):
        return torch.stack(
            [
                torch.cat([estimate(objective, GUIDE, x).bound.detach() for x in X.split(batch_size)])
                for _ in range(runs)
            ]
        )


def mean_and_error(estimates: Tensor) -> tuple[float, float]:
    means = estimates.mean(1)
    return float(means.mean()), float(means.std() / math.sqrt(len(means)))


@pytest.mark.parametrize(
    ("batch_size", "runs", "draws"),
    [(24, 200, (1, 4, 30)), (7, 60, (1, 40)), (1, 60, (1, 40))],
    ids=["one batch", "several batches", "single observations"],
)
def test_iwae_increases_from_the_elbo_to_the_evidence(batch_size: int, runs: int, draws: list[int]) -> None:
    evidence, elbo = float(EVIDENCE.mean()), float(EVIDENCE.mean()) - MODEL.diagonal_gap()
    found = [mean_and_error(bounds(IWAE(count), runs, batch_size)) for count in draws]
    assert abs(found[0][0] - elbo) < 5 * found[0][1]
    for (lower, its_error), (higher, error) in itertools.pairwise(found):
        assert higher - lower > 3 * math.hypot(error, its_error)  # expected: about eight
    for bound, error in found:
        assert bound < evidence + 5 * error
    assert evidence - found[-1][0] < 0.2 * MODEL.diagonal_gap() + 5 * found[-1][1]


def weights_of(log_weight: Tensor) -> LogWeights:
    zero = torch.zeros_like(log_weight)
    return LogWeights({"x": log_weight}, {"z": zero}, zero, None, torch.zeros(()), Draws(zero.unsqueeze(-1)))


def log_weights(dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 50).to(dtype)


def test_renyi_decreases_with_its_order() -> None:
    """This holds for any draws, because a power mean increases with its power."""
    weights = weights_of(log_weights())
    orders = [-8.0, -1.0, 0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 10.0]
    found = [Renyi(order, 6).bound(weights) for order in orders]
    for higher, lower in itertools.pairwise(found):
        assert (higher > lower).all()
    assert (found[0] <= weights.log_weight.amax(0)).all()
    assert (found[-1] >= weights.log_weight.amin(0)).all()


def test_special_orders() -> None:
    weights = weights_of(log_weights())
    torch.testing.assert_close(Renyi(0.0, 6).bound(weights), IWAE(6).bound(weights))
    torch.testing.assert_close(Renyi(1.0, 6).bound(weights), ELBO(6, kl="sampled").bound(weights))
    one_draw = weights_of(log_weights()[:1])
    for objective in (IWAE(1), Renyi(0.5, 1), Renyi(2.0, 1), Renyi(1.0, 1)):
        torch.testing.assert_close(objective.bound(one_draw), one_draw.log_weight[0])


@pytest.mark.parametrize("order", [-2.0, 0.5, 0.99, 1.01, 3.0])
def test_renyi_agrees_with_its_formula(order: float) -> None:
    weights = weights_of(log_weights())
    expected = (((1 - order) * weights.log_weight).logsumexp(0) - math.log(6)) / (1 - order)
    torch.testing.assert_close(Renyi(order, 6).bound(weights), expected, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("order", [1 - 1e-7, 1 + 1e-7, 1 - 1e-12])
def test_renyi_is_accurate_near_order_one(order: float) -> None:
    """In single precision the formula itself would return only rounding errors; compare with its expansion."""
    log_weight = log_weights(torch.float32)
    exact = log_weight.double().mean(0) + 0.5 * (1 - order) * log_weight.double().var(0, correction=0)
    found = Renyi(order, 6).bound(weights_of(log_weight))
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("order", [0.5, 2.0])
def test_bias_of_renyi_is_inversely_proportional_to_the_draws(order: float) -> None:
    """It is negative for orders below one and positive above."""
    points, weight = np.polynomial.hermite_e.hermegauss(150)
    weight = torch.tensor(weight / weight.sum())
    on_nodes = PROBLEM.log_weight(torch.tensor(points))
    limit = float(((1 - order) * on_nodes + weight.log()).logsumexp(0) / (1 - order))
    elbo = float((weight * on_nodes).sum())
    with random_state(0):
        sampled = PROBLEM.log_weight(torch.randn(4_000_000, dtype=torch.float64))
    biases = []
    for count in (1, 10, 40):
        found = Renyi(order, count).bound(weights_of(sampled.reshape(count, -1)))
        biases.append((float(found.mean()) - limit, float(found.std() / math.sqrt(len(found)))))
    assert abs(biases[0][0] - (elbo - limit)) < 5 * biases[0][1]
    sign = -1 if order < 1 else 1
    assert sign * biases[2][0] > 5 * biases[2][1]
    # The next term of the expansion contributes a few percent with ten draws.
    error = 5 * math.hypot(biases[1][1], 4 * biases[2][1])
    assert abs(biases[1][0] - 4 * biases[2][0]) < error + 0.15 * abs(biases[1][0])


@pytest.mark.parametrize("objective", [IWAE, lambda *a, **k: Renyi(0.5, *a, **k)], ids=["iwae", "renyi"])
def test_gradient_form_does_not_change_the_bound(objective) -> None:
    dreg, plain = bounds(objective(5), 1), bounds(objective(5, gradient="plain"), 1)
    torch.testing.assert_close(dreg, plain, rtol=1e-10, atol=0.0)


def test_options() -> None:
    assert repr(IWAE()) == "IWAE()"
    assert repr(IWAE(50)) == "IWAE(particles=50)"
    assert repr(Renyi(2, 3, gradient="plain")) == "Renyi(alpha=2.0, particles=3, gradient='plain')"
    for make in (IWAE, lambda **options: Renyi(0.5, **options)):
        with pytest.raises(OptionError, match="gradient must be 'auto', 'dreg' or 'plain'; got 'stl'"):
            make(gradient="stl")
    for alpha in (math.inf, math.nan, "0.5", None):
        with pytest.raises(OptionError, match="alpha must be a finite number; got"):
            Renyi(alpha)  # type: ignore[arg-type]
