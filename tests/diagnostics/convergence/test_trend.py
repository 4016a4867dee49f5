"""The slope of synthetic curves, its interval and the gain that follows from it."""

import math

import numpy as np
import pytest

from amortvi.diagnostics.convergence.trend import fit_trend
from tests.diagnostics.convergence.curves import noise


@pytest.mark.parametrize(("epochs", "correlation"), [(50, 0.0), (50, 0.5), (300, 0.5)])
def test_the_interval_of_a_slope_covers(epochs, correlation):
    """Three to nine percent of the slopes of flat curves are outside their 95% interval."""
    runs = 200
    trends = [fit_trend(-90 + noise(epochs, correlation=correlation, seed=seed), epochs) for seed in range(runs)]
    outside = np.mean([abs(trend.slope) > trend.quantile * trend.slope_se for trend in trends])
    assert outside < 0.09 + 5 * math.sqrt(0.09 * 0.91 / runs)


@pytest.mark.parametrize("seed", range(5))
def test_outliers_do_not_change_a_slope(seed):
    values = 0.02 * np.arange(100) + noise(100, seed=seed)
    values[[85, 97]] -= 50
    trend = fit_trend(values, 100)
    assert abs(trend.slope - 0.02) < 6 * trend.slope_se < 0.02
    assert trend.rise == pytest.approx(20 * trend.slope)
