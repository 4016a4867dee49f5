"""Ranks are uniform for exact posteriors, their shapes are named, and the band contains uniform ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from amortvi.diagnostics.calibration import ecdf_band
from amortvi.diagnostics.calibration.ranks import shape_of, uniform_ranks, uniformity
from amortvi.errors import OptionError


def test_ranks_are_uniform_with_and_without_ties() -> None:
    torch.manual_seed(0)
    for values in (torch.randn(11, 5000), torch.randint(3, (11, 5000)).double(), torch.zeros(11, 5000)):
        assert uniformity(uniform_ranks(values[0], values[1:]).numpy())[1] > 1e-6


@pytest.mark.parametrize("change", [lambda z: z + 0.2, lambda z: 1.2 * z], ids=["shift", "spread"])
def test_ranks_of_another_distribution_are_not_uniform(change: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    values = torch.randn(11, 20000)
    assert uniformity(uniform_ranks(change(values[0]), values[1:]).numpy())[1] < 1e-6


def test_shapes_of_ranks_are_named() -> None:
    scores = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    for fault, values in {
        "too narrow": 1.5 * scores,
        "too wide": 0.6 * scores,
        "shifted": scores + 0.5,
        "not calibrated": scores,
    }.items():
        assert shape_of(stats.norm.cdf(values)) == fault
    assert shape_of(np.full(100, 0.999)) == "shifted"


@pytest.mark.parametrize(("simulations", "probability"), [(50, 0.95), (1000, 0.8)])
def test_a_band_contains_uniform_ranks_with_its_probability(simulations: int, probability: float) -> None:
    at, lower, upper = ecdf_band(simulations, probability=probability, points=40)
    runs = 2000
    torch.manual_seed(1)
    cells = torch.randint(40, (runs, simulations))
    counts = (
        torch.zeros(runs, 40).scatter_add_(1, cells, torch.ones(cells.shape)).double().cumsum(1).numpy() / simulations
    )
    inside = ((lower <= counts) & (counts <= upper)).all(axis=1).mean()
    # The band, estimated from 4000 simulations, and this fraction both vary; counts are discrete, so it may contain more.
    error = 5 * (probability * (1 - probability) * (1 / runs + 1 / 4000)) ** 0.5
    assert probability - error < inside < probability + error + 0.03
    assert lower[-1] == upper[-1] == at[-1] == 1


@pytest.mark.parametrize("options", [{"simulations": 0}, {"points": 1.5}, {"probability": 1.0}])
def test_bad_options_of_the_band(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        ecdf_band(**{"simulations": 10, **options})
