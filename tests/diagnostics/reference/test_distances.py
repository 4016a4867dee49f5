"""Distances between samples of Gaussians, compared with their population values."""

import math

import pytest
import torch

from amortvi.diagnostics.reference import distances
from amortvi.diagnostics.reference.distances import sliced_wasserstein
from amortvi.errors import DataError

DRAWS, DIM = 5000, 3
NOISE = math.sqrt(2 / DRAWS)
"""The standard error of a difference of means, in standard deviations."""
UNITS = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
"""The units of the coordinates, on which no distance depends."""


def gaussian(seed: int, *, shift: float = 0.0, widen: float = 1.0, correlation: float = 0.0) -> torch.Tensor:
    """Return draws ``(DRAWS, 1, DIM)``; shift and width are in standard deviations of the reference."""
    noise = torch.randn(DRAWS, 1, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = torch.full((DIM, DIM), correlation, dtype=torch.float64).fill_diagonal_(1.0)
    return (shift + widen * noise @ torch.linalg.cholesky(covariance).mT) * UNITS


@pytest.mark.parametrize(
    ("options", "mean", "covariance", "sliced"),
    [({}, 0, 0, 0), ({"shift": 0.5}, 0.5, 0, 0.5), ({"widen": 0.5}, 0, 0.75, 0.5), ({"widen": 2.0}, 0, 3, 1)],
)
def test_shift_and_width(options, mean, covariance, sliced):
    found = distances(gaussian(0, **options), gaussian(1), seed=0)
    assert float(found.mean_error) == pytest.approx(mean, abs=5 * NOISE * options.get("widen", 1))
    assert float(found.covariance_error) == pytest.approx(covariance, rel=0.15, abs=8 * NOISE)
    # The shift along a random direction has the mean square 0.25, which 128 directions estimate to about 8%.
    assert float(found.sliced_wasserstein) == pytest.approx(sliced, rel=0.25, abs=8 * NOISE)


def test_missing_correlation():
    found = distances(gaussian(0), gaussian(1, correlation=0.9), seed=0)
    expected = math.sqrt(6 * 0.81) / math.sqrt(3 + 6 * 0.81)
    assert float(found.covariance_error) == pytest.approx(expected, rel=0.1)
    assert found.sliced_wasserstein > 0.2
    assert found.mean_error < 8 * NOISE


def test_only_the_wasserstein_distance_sees_another_shape_with_the_same_moments():
    sign = torch.randint(2, (DRAWS, 1, DIM), generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    two_modes = (0.95 * sign + math.sqrt(1 - 0.95**2) * gaussian(0) / UNITS) * UNITS
    found, chance = (distances(draws, gaussian(1), seed=0) for draws in (two_modes, gaussian(2)))
    assert found.mean_error < 5 * NOISE
    assert found.covariance_error < 8 * NOISE
    assert found.sliced_wasserstein > 2 * chance.sliced_wasserstein


def test_sample_sizes_can_differ():
    points = torch.linspace(0, 1, 6, dtype=torch.float64).unsqueeze(-1)
    assert sliced_wasserstein(points, points.repeat_interleave(3, dim=0)) == 0
    assert float(sliced_wasserstein(points.repeat_interleave(2, dim=0) + 1, points)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("draws", "reference", "message"),
    [
        (torch.zeros(5, 2, 3), torch.zeros(5, 1, 3), r"got \(5, 2, 3\) and \(5, 1, 3\)"),
        (torch.zeros(5, 3), torch.zeros(5, 3), "must have shape"),
        (torch.zeros(1, 2, 3), torch.zeros(5, 2, 3), "at least 2"),
        (torch.full((5, 2, 3), math.nan), torch.randn(5, 2, 3), "draws must be finite; 30 of its values"),
        (torch.randn(5, 2, 3), torch.ones(5, 2, 3), "reference must vary"),
    ],
)
def test_bad_draws(draws, reference, message):
    with pytest.raises(DataError, match=message):
        distances(draws, reference)
