"""Distances between samples, against what they are of known Gaussians."""

import math

import pytest
import torch

from amortvi.diagnostics import distances
from amortvi.diagnostics.reference.distances import sliced_wasserstein
from amortvi.errors import DataError

DRAWS, DIM = 20_000, 3
SCALE = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
"""What coordinates are measured in, which must not matter."""


def gaussian(seed: int, *, shift: float = 0.0, widen: float = 1.0, correlation: float = 0.0) -> torch.Tensor:
    """Draws ``(DRAWS, 1, DIM)``; the numbers are in the reference's standard deviations."""
    noise = torch.randn(DRAWS, 1, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = torch.full((DIM, DIM), correlation, dtype=torch.float64).fill_diagonal_(1.0)
    return (shift + widen * noise @ torch.linalg.cholesky(covariance).mT) * SCALE


def test_draws_of_one_distribution_are_close():
    found = distances(gaussian(0), gaussian(1), seed=0)
    noise = math.sqrt(2 / DRAWS)
    assert found.mean_error < 3 * noise
    assert found.covariance_error < 5 * noise
    assert found.sliced_wasserstein < 5 * noise


def test_a_shift():
    found = distances(gaussian(0, shift=0.5), gaussian(1), seed=0)
    assert float(found.mean_error) == pytest.approx(0.5, abs=5 * math.sqrt(2 / DRAWS))
    # Projected on a direction the shift is 0.5 * (sum of its coordinates), whose mean square over directions is 0.25.
    assert float(found.sliced_wasserstein) == pytest.approx(0.5, rel=0.15)
    assert found.covariance_error < 0.05


@pytest.mark.parametrize("widen", [0.5, 2.0])
def test_a_wrong_width(widen):
    found = distances(gaussian(0, widen=widen), gaussian(1), seed=0)
    assert float(found.covariance_error) == pytest.approx(abs(widen**2 - 1), rel=0.05)
    assert float(found.sliced_wasserstein) == pytest.approx(abs(widen - 1), rel=0.05)
    assert found.mean_error < 0.05


def test_a_correlation_that_is_missed():
    found = distances(gaussian(0), gaussian(1, correlation=0.9), seed=0)
    expected = math.sqrt(6 * 0.81) / math.sqrt(3 + 6 * 0.81)
    assert float(found.covariance_error) == pytest.approx(expected, rel=0.05)
    assert found.sliced_wasserstein > 0.2
    assert found.mean_error < 0.05


def test_another_shape_with_the_same_moments():
    """Two modes in place of one: only the Wasserstein distance sees it."""
    generator = torch.Generator().manual_seed(3)
    sign = torch.randint(2, (DRAWS, 1, DIM), generator=generator) * 2.0 - 1
    modes = (0.95 * sign + math.sqrt(1 - 0.95**2) * gaussian(0) / SCALE) * SCALE
    found, chance = (distances(draws, gaussian(1), seed=0) for draws in (modes, gaussian(2)))
    assert found.mean_error < 0.05
    assert found.covariance_error < 0.05
    assert found.sliced_wasserstein > 5 * chance.sliced_wasserstein


def test_samples_of_different_sizes():
    points = torch.linspace(0, 1, 6, dtype=torch.float64).unsqueeze(-1)
    assert sliced_wasserstein(points, points.repeat_interleave(3, dim=0)) == 0
    assert float(sliced_wasserstein(points.repeat_interleave(2, dim=0) + 1, points)) == pytest.approx(1)


def test_a_seed_reproduces_and_leaves_the_random_state():
    state = torch.get_rng_state()
    first, again = (distances(gaussian(0), gaussian(1), seed=4).sliced_wasserstein for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("draws", "reference", "message"),
    [
        (torch.zeros(5, 2, 3), torch.zeros(5, 1, 3), r"got \(5, 2, 3\) and \(5, 1, 3\)"),
        (torch.zeros(5, 3), torch.zeros(5, 3), "must have shape"),
        (torch.zeros(1, 2, 3), torch.zeros(5, 2, 3), "at least 2"),
        (torch.full((5, 2, 3), math.nan), torch.randn(5, 2, 3), "draws has 30 numbers that are not finite"),
        (torch.randn(5, 2, 3), torch.ones(5, 2, 3), "does not vary"),
    ],
)
def test_bad_draws(draws, reference, message):
    with pytest.raises(DataError, match=message):
        distances(draws, reference)
