"""The importance-weighted bound and Renyi's: against the exact evidence, and against one another."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi import families
from amortvi._util.modes import random_state
from amortvi.errors import OptionError
from amortvi.model.program import GenerativeModel
from amortvi.posterior.guide import AmortizedGuide
from amortvi.objectives import ELBO, IWAE, LogWeights, Objective, Renyi, make_objective
from amortvi.data import Batch
from tests.exact import linear_gaussian, solved
from tests.objectives.problems import PROBLEMS

TRUTH = linear_gaussian()
X = TRUTH.simulate(24, seed=3)
EVIDENCE = TRUTH.log_evidence(X)
# The best diagonal posterior: its gap to the evidence is known.
GUIDE = solved(TRUTH, families.Diagonal).guide
PROBLEM = PROBLEMS["a learned prior"]


def subsampled(x: Tensor) -> None:
    """The model as one of a subsample of 10,000 observations."""
    with pyro.plate("data", 10_000, subsample=x):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ TRUTH.W.mT + TRUTH.bias, TRUTH.scale).to_event(1), obs=x)


def bounds(objective: Objective, runs: int, batch_size: int = 24, model=TRUTH, seed: int = 0) -> Tensor:
    """The bound of each observation, from independent draws in batches of the given size, ``(runs, 24)``."""
    guide = GUIDE
    if model is not TRUTH:
        guide = AmortizedGuide(model, GUIDE._modules["encoder"], GUIDE.family_choice).setup(X)
    generative = GenerativeModel(model)
    with random_state(seed), torch.no_grad():
        found = [
            torch.cat([objective.estimate(generative, guide, Batch((part,))).bound for part in X.split(batch_size)])
            for _ in range(runs)
        ]
    return torch.stack(found)


def mean_and_error(estimates: Tensor) -> tuple[float, float]:
    means = estimates.mean(1)
    return float(means.mean()), float(means.std() / math.sqrt(len(means)))


@pytest.mark.parametrize(("batch_size", "model"), [(24, TRUTH), (7, TRUTH), (1, TRUTH), (7, subsampled)])
def test_iwae_rises_from_the_elbo_to_the_evidence(batch_size: int, model) -> None:
    """Whatever the batch size, and however the plate is written."""
    evidence, elbo = float(EVIDENCE.mean()), float(EVIDENCE.mean()) - TRUTH.diagonal_gap()
    runs = 25 if batch_size == 1 else 100
    found = [mean_and_error(bounds(IWAE(count), runs, batch_size, model)) for count in (1, 4, 30)]
    assert abs(found[0][0] - elbo) < 5 * found[0][1]
    for (lower, its_error), (higher, error) in itertools.pairwise(found):
        assert higher - lower > 5 * math.hypot(error, its_error)
    for bound, error in found:
        assert bound < evidence + 5 * error
    assert evidence - found[-1][0] < 0.2 * TRUTH.diagonal_gap()


def weights_of(log_weight: Tensor) -> LogWeights:
    """As if the likelihood were all of it."""
    zero = torch.zeros_like(log_weight)
    return LogWeights({"x": log_weight}, {"z": zero}, zero, None, torch.zeros(()), zero.unsqueeze(-1))


def log_weights(dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 50).to(dtype)


def test_renyi_falls_with_its_order() -> None:
    """For any draws, since a power mean rises with its power."""
    weights = weights_of(log_weights())
    orders = [-8.0, -1.0, 0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 10.0]
    found = [Renyi(order, 6).bound(weights) for order in orders]
    for higher, lower in itertools.pairwise(found):
        assert (higher > lower).all()
    largest, smallest = weights.log_weight.amax(0), weights.log_weight.amin(0)
    assert (found[0] <= largest).all()
    assert (found[-1] >= smallest).all()


def test_orders_that_have_another_name() -> None:
    weights = weights_of(log_weights())
    torch.testing.assert_close(Renyi(0.0, 6).bound(weights), IWAE(6).bound(weights))
    torch.testing.assert_close(Renyi(1.0, 6).bound(weights), ELBO(6, kl="sampled").bound(weights))
    one_draw = weights_of(log_weights()[:1])
    for objective in (IWAE(1), Renyi(0.5, 1), Renyi(2.0, 1), Renyi(1.0, 1)):
        torch.testing.assert_close(objective.bound(one_draw), one_draw.log_weight[0])


@pytest.mark.parametrize("order", [-2.0, 0.5, 0.99, 1.01, 3.0])
def test_renyi_is_its_formula(order: float) -> None:
    weights = weights_of(log_weights())
    expected = (((1 - order) * weights.log_weight).logsumexp(0) - math.log(6)) / (1 - order)
    torch.testing.assert_close(Renyi(order, 6).bound(weights), expected, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("order", [1 - 1e-7, 1 + 1e-7, 1 - 1e-12])
def test_renyi_near_order_one_keeps_its_digits(order: float) -> None:
    """In single precision, where the logarithm of the formula would be nothing but rounding: against its expansion."""
    log_weight = log_weights(torch.float32)
    exact = log_weight.double().mean(0) + 0.5 * (1 - order) * log_weight.double().var(0, correction=0)
    found = Renyi(order, 6).bound(weights_of(log_weight))
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("order", [0.5, 2.0])
def test_renyi_estimate_is_biased_as_one_over_the_draws(order: float) -> None:
    """From below for orders under one and from above beyond, on the way from the ELBO to the bound itself."""
    points, weight = np.polynomial.hermite_e.hermegauss(150)
    weight = torch.tensor(weight / weight.sum())
    on_nodes = PROBLEM.log_weight(torch.tensor(points))
    limit = float(((1 - order) * on_nodes + weight.log()).logsumexp(0) / (1 - order))
    elbo = float((weight * on_nodes).sum())
    sampled = PROBLEM.log_weight(torch.randn(800_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    biases = []
    for count in (1, 10, 40):
        found = Renyi(order, count).bound(weights_of(sampled.reshape(count, -1)))
        error = float(found.std() / math.sqrt(len(found)))
        biases.append((float(found.mean()) - limit, error))
    sign = -1 if order < 1 else 1
    assert biases[0][0] == pytest.approx(elbo - limit, abs=5 * biases[0][1])
    assert sign * biases[2][0] > 5 * biases[2][1]
    assert biases[1][0] / biases[2][0] == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("objective", [IWAE, lambda *a, **k: Renyi(0.5, *a, **k)], ids=["iwae", "renyi"])
def test_gradient_form_does_not_change_the_bound(objective) -> None:
    dreg, plain = bounds(objective(5), 1), bounds(objective(5, gradient="plain"), 1)
    torch.testing.assert_close(dreg, plain, rtol=1e-10, atol=0.0)


def test_options_are_checked_and_shown() -> None:
    assert repr(make_objective("iwae")) == "IWAE(particles=5, gradient='dreg')"
    assert repr(Renyi(2, 3, gradient="plain")) == "Renyi(alpha=2.0, particles=3, gradient='plain')"
    for make in (IWAE, lambda **options: Renyi(0.5, **options)):
        with pytest.raises(OptionError, match="gradient must be 'plain' or 'dreg'; got 'stl'"):
            make(gradient="stl")
        with pytest.raises(OptionError, match="particles must be a positive integer; got 0"):
            make(particles=0)
    for alpha in (math.inf, math.nan, "0.5", None):
        with pytest.raises(OptionError, match="alpha must be a finite number; got"):
            Renyi(alpha)  # type: ignore[arg-type]
