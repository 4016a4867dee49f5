"""Pareto smoothing: against ArviZ, on known tails, and where no tail can be fitted."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from amortvi.errors import DataError, OptionError
from amortvi.importance import generalized_pareto, k_hat_threshold, pareto, pareto_smoothed
from amortvi.importance.pareto import largest
from tests.arviz_versions import IS_OLD, psislw

DRAWS = [21, 25, 26, 50, 100, 225, 226, 400, 900, 1000, 4000, 20_000]


def same_tail(draws: int) -> bool:
    """Whether this ArviZ has as many draws in the tail as the paper; 1.x rounds the other way."""
    exact = min(draws / 5, 3 * math.sqrt(draws))
    return IS_OLD or (exact == int(exact) and draws > 21)


LOG_WEIGHTS = {
    "nearly equal": lambda n, u: 1e-6 * n,
    "light": lambda n, u: 0.3 * n,
    "heavy": lambda n, u: 3.0 * n,
    "very heavy": lambda n, u: 40.0 * n,
    "beyond the range of double precision": lambda n, u: 400.0 * n,
    "bounded": lambda n, u: torch.log(u),
    "generalized Pareto, k = 0.5": lambda n, u: torch.log(u**-0.5),
    "generalized Pareto, k = 1.5": lambda n, u: torch.log(u**-1.5),
    "Cauchy": lambda n, u: torch.tan(3.14159 * (u - 0.5)),
    "far from zero": lambda n, u: n - 5000,
    "zero weights": lambda n, u: torch.where(u < 0.4, -torch.inf, 3 * u),
    "mostly zero weights": lambda n, u: torch.where(u < 0.75, -torch.inf, 3 * u),
}
"""Log weights as functions of normal and of uniform random numbers."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("draws", [d for d in DRAWS if same_tail(d)])
@pytest.mark.parametrize("name", LOG_WEIGHTS)
def test_equals_arviz(name: str, draws: int) -> None:
    log_weights = LOG_WEIGHTS[name](normal(draws, 7, seed=draws), uniform(draws, 7, seed=draws))
    smoothed = pareto_smoothed(log_weights)
    expected, k_hat = psislw(log_weights)
    known = k_hat.isfinite()
    # Where weights underflow, rounding decides how many are in the tail, and whether there are enough to fit.
    extreme = name in ("very heavy", "beyond the range of double precision", "Cauchy")
    if IS_OLD and not extreme:
        assert torch.equal(smoothed.k_hat.isfinite(), known)
    else:
        # ArviZ 1.x does not fit a tail of five.
        known &= smoothed.k_hat.abs() < 5
        assert bool(known.any()) or draws == 25 or extreme
    torch.testing.assert_close(smoothed.k_hat[known], k_hat[known], rtol=0, atol=1e-6)
    torch.testing.assert_close(smoothed.normalized[:, known], expected[:, known], rtol=0, atol=1e-6)


@pytest.mark.skipif(not IS_OLD, reason="ArviZ 1.x includes ties in the tail")
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("levels", [2, 20])
def test_equals_arviz_with_ties(draws: int, levels: int) -> None:
    """The order in which equal weights receive quantiles is unspecified, so sorted weights are compared."""
    normal = torch.randn(draws, 7, generator=torch.Generator().manual_seed(draws), dtype=torch.float64)
    log_weights = (normal * 2 * levels).round() / levels
    log_weights[:2] = log_weights.amax(0)
    smoothed = pareto_smoothed(log_weights)
    expected, k_hat = psislw(log_weights)
    assert torch.equal(smoothed.k_hat.isfinite(), k_hat.isfinite())
    known = k_hat.isfinite()
    torch.testing.assert_close(smoothed.k_hat[known], k_hat[known], rtol=0, atol=1e-6)
    torch.testing.assert_close(smoothed.normalized.sort(0).values, expected.sort(0).values, rtol=0, atol=1e-6)


def test_tails_may_have_different_lengths() -> None:
    """Ties shorten a tail, so each observation has its own number of draws in it, and its own grid."""
    log_weights = normal(400, 12)
    for column in range(12):
        descending = log_weights[:, column].sort(descending=True).indices
        # Tied with everything below, down to the 100th.
        log_weights[descending[9 + 4 * column : 100], column] = log_weights[descending[9 + 4 * column], column].clone()
    together = pareto_smoothed(log_weights)
    alone = [pareto_smoothed(log_weights[:, [column]]) for column in range(12)]
    assert together.k_hat.isfinite().all()
    torch.testing.assert_close(together.k_hat, torch.cat([each.k_hat for each in alone]), rtol=1e-12, atol=1e-12)


def test_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    log_weights = 2 * normal(300, 50)
    whole = pareto_smoothed(log_weights)
    monkeypatch.setattr(pareto, "_CACHED", 300 * 7)
    monkeypatch.setattr(generalized_pareto, "_CACHED", 1)
    chunked = pareto_smoothed(log_weights)
    torch.testing.assert_close(chunked.k_hat, whole.k_hat, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chunked.log_weights, whole.log_weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.7, 1.2])
def test_k_hat_of_a_generalized_pareto(k: float) -> None:
    """The standard deviation of the estimate is about ``(1 + k) / sqrt(n)`` (Zhang and Stephens, 2009)."""
    probabilities = uniform(20_000, 40, seed=1)
    shape = torch.full((20_000, 1), k, dtype=torch.float64)
    weights = generalized_pareto.quantiles(probabilities, shape, torch.ones_like(shape))
    k_hat = pareto_smoothed(weights.log()).k_hat
    length = math.ceil(3 * math.sqrt(20_000))
    prior = 10 * 0.5 / (length + 10)  # the estimate is shrunk toward 0.5
    expected = k * length / (length + 10) + prior
    assert abs(k_hat.mean() - expected) < 5 * k_hat.std() / math.sqrt(40) + 0.03  # the estimator has a small bias
    assert 0.5 * max(1 + k, 0.5) / math.sqrt(length) < k_hat.std() < 2 * (1 + abs(k)) / math.sqrt(length)


def test_quantiles_of_the_generalized_pareto() -> None:
    from scipy.stats import genpareto

    probabilities = torch.tensor([[0.01, 0.5, 0.999]], dtype=torch.float64).expand(4, 3)
    shape = torch.tensor([[-0.7], [0.0], [1e-17], [1.4]], dtype=torch.float64)
    scale = torch.tensor([[0.1], [1.0], [2.0], [30.0]], dtype=torch.float64)
    expected = genpareto.ppf(probabilities.numpy(), shape.numpy(), scale=scale.numpy())
    found = generalized_pareto.quantiles(probabilities, shape, scale)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_smoothing_reduces_the_error_of_the_mean_of_heavy_tailed_weights() -> None:
    """For log-normal weights of mean one, the mean of the smoothed weights has the smaller mean squared error."""
    sigma = 2.5
    log_weights = sigma * normal(500, 2000) - sigma**2 / 2
    smoothed = pareto_smoothed(log_weights)

    def error(given: Tensor) -> Tensor:
        return (given.exp().mean(0) - 1).square().mean()

    assert error(smoothed.log_weights) < 0.8 * error(log_weights)
    # Weights below the tail are unchanged, none exceeds the largest, and their order is preserved.
    below = log_weights.sort(0).indices[:-68]
    assert torch.equal(smoothed.log_weights.gather(0, below), log_weights.gather(0, below))
    assert (smoothed.log_weights.amax(0) <= log_weights.amax(0)).all()
    assert (smoothed.log_weights.gather(0, log_weights.sort(0).indices).diff(dim=0) >= -1e-12).all()


@pytest.mark.parametrize("draws", [21, 50, 1000])
def test_equal_weights_have_the_best_k_hat(draws: int) -> None:
    for constant in (0.0, -700.0, 3.7e5):
        smoothed = pareto_smoothed(torch.full((draws, 3), constant, dtype=torch.float64))
        assert (smoothed.k_hat == -torch.inf).all()
        assert (smoothed.log_weights == constant).all()
    # The same holds if only the largest are equal, as with a saturated likelihood.
    some = torch.linspace(-3, -1, draws, dtype=torch.float64).unsqueeze(1).clamp(max=-2)
    assert pareto_smoothed(some).k_hat.item() == -torch.inf


@pytest.mark.parametrize("draws", range(1, 21))
def test_few_draws_have_an_unknown_tail(draws: int) -> None:
    log_weights = normal(draws, 3, seed=draws)
    smoothed = pareto_smoothed(log_weights)
    assert (smoothed.k_hat == torch.inf).all()
    assert torch.equal(smoothed.log_weights, log_weights)
    assert (pareto_smoothed(torch.zeros(draws, 2)).k_hat == torch.inf).all()  # even if they are equal


def test_fewer_than_five_weights_above_the_cutoff_are_not_fitted() -> None:
    log_weights = torch.zeros(1000, 2, dtype=torch.float64)
    log_weights[:4, 0], log_weights[:5, 1] = torch.arange(3.0, 7.0), torch.arange(3.0, 8.0)
    smoothed = pareto_smoothed(log_weights)
    assert smoothed.k_hat[0] == torch.inf
    assert smoothed.k_hat[1].isfinite()
    assert torch.equal(smoothed.log_weights[:, 0], log_weights[:, 0])


def test_all_weights_zero() -> None:
    log_weights = normal(100, 3)
    log_weights[:, 1] = -torch.inf
    smoothed = pareto_smoothed(log_weights)
    assert smoothed.k_hat[1] == torch.inf
    assert (smoothed.log_weights[:, 1] == -torch.inf).all()
    others = pareto_smoothed(log_weights[:, [0, 2]])
    torch.testing.assert_close(smoothed.k_hat[[0, 2]], others.k_hat, rtol=1e-12, atol=1e-12)
    assert (smoothed.normalized[:, 1] == -torch.inf).all()
    torch.testing.assert_close(smoothed.normalized.exp().sum(0), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))


def test_invalid_weights_are_refused() -> None:
    for value in (torch.nan, torch.inf):
        with pytest.raises(DataError, match=r"log_weights must be finite, or -inf .* observation 3 has (nan|inf)"):
            pareto_smoothed(torch.zeros(100, 5).index_fill(1, torch.tensor([3]), value))
    for given in (torch.zeros(5), torch.zeros(0, 3), torch.zeros(2, 3, 4), torch.zeros(3, 3).long(), [[0.0]]):
        with pytest.raises(DataError, match=r"log_weights must (be|have) .*shape \(draws, observations\)"):
            pareto_smoothed(given)  # type: ignore[arg-type]


def test_memory_layout_does_not_matter_and_the_input_is_unchanged() -> None:
    log_weights = normal(60, 100).t()
    before = log_weights.clone()
    found = pareto_smoothed(log_weights.requires_grad_())
    assert torch.equal(log_weights.detach(), before)
    assert not found.log_weights.requires_grad
    assert torch.equal(found.k_hat, pareto_smoothed(before.contiguous()).k_hat)
    assert pareto_smoothed(torch.empty(30, 0)).k_hat.shape == (0,)
    for dtype in (torch.float32, torch.float16):
        found, expected = (pareto_smoothed(each) for each in (before.to(dtype), before.to(dtype).double()))
        assert torch.equal(found.k_hat, expected.k_hat)
        assert torch.equal(found.log_weights, expected.log_weights)


def test_threshold() -> None:
    found = [k_hat_threshold(draws) for draws in (100, 320, 1000, 2200, 10**6)]
    assert found == pytest.approx([0.5, 0.6008, 2 / 3, 0.7, 0.7], abs=1e-3)
    for draws in (0, 1, 2.5, True):
        with pytest.raises(OptionError, match="draws must be"):
            k_hat_threshold(draws)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "count"), [(5, 5), (6, 2), (97, 20), (1000, 96), (1000, 1), (5003, 214)])
@pytest.mark.parametrize("levels", [None, 5, 1])
def test_largest(width: int, count: int, levels: int | None) -> None:
    rows = normal(30, width, seed=width)
    if levels is not None:
        rows = (rows * levels).round() / levels
    rows[0, : width // 2] = -torch.inf
    values, positions = largest(rows, count)
    assert torch.equal(values, rows.topk(count, dim=1).values.flip(1))
    above = values > values[:, :1]
    assert torch.equal(rows.gather(1, positions)[above], values[above])
    for row in range(30):
        assert len(set(positions[row, above[row]].tolist())) == int(above[row].sum())  # no position twice
