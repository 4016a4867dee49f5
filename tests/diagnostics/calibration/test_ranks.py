"""Ranks are uniform for exact posteriors, their shapes are named, and the band contains uniform ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from amortvi.diagnostics.calibration import ecdf_band
from amortvi.diagnostics.calibration.ranks import shape_of, uniform_ranks, uniformity
from amortvi.errors import OptionError


def test_ranks_are_uniform_for_draws_of_one_distribution_with_and_without_ties() -> None:
    torch.manual_seed(0)
    for values in (torch.randn(11, 5000), torch.randint(3, (11, 5000)).double(), torch.zeros(11, 5000)):
        assert uniformity(uniform_ranks(values[0], values[1:]).numpy())[1] > 1e-6
    values = torch.randn(11, 20000)
    for other in (values[0] + 0.2, 1.2 * values[0]):
        assert uniformity(uniform_ranks(other, values[1:]).numpy())[1] < 1e-6


def test_shapes_of_ranks_are_named() -> None:
    scores = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    shapes = [shape_of(stats.norm.cdf(values)) for values in (1.5 * scores, 0.6 * scores, scores + 0.5, scores)]
    assert shapes == ["too narrow", "too wide", "shifted", "not calibrated"]
    assert shape_of(np.full(100, 0.999)) == "shifted"


@pytest.mark.parametrize(("simulations", "probability"), [(50, 0.95), (1000, 0.8)])
def test_a_band_contains_uniform_ranks_with_its_probability(simulations: int, probability: float) -> None:
    at, lower, upper = ecdf_band(simulations, probability=probability, points=40)
    runs = 2000
    counts = np.random.default_rng(1).multinomial(simulations, np.full(40, 1 / 40), size=runs)
    function = counts.cumsum(axis=1) / simulations
    inside = ((lower <= function) & (function <= upper)).all(axis=1).mean()
    # The band, estimated from 4000 simulations, and this fraction both vary; counts are discrete, so it may contain more.
    error = 5 * (probability * (1 - probability) * (1 / runs + 1 / 4000)) ** 0.5
    assert probability - error < inside < probability + error + 0.03
    assert lower[-1] == upper[-1] == at[-1] == 1


@pytest.mark.parametrize("options", [{"simulations": 0}, {"points": 1.5}, {"probability": 1.0}])
def test_bad_options_of_the_band(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        ecdf_band(**{"simulations": 10, **options})
