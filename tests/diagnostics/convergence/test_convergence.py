"""Trends and convergence of synthetic curves: long enough, cut short, noisy, overfitting."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import amortvi as avi
from amortvi.diagnostics.convergence import convergence
from amortvi.diagnostics.convergence.convergence import read_history
from amortvi.diagnostics.convergence.trend import fit_trend
from amortvi.errors import NotFittedError, OptionError


def noise(epochs: int, spread: float = 0.02, correlation: float = 0.0, seed: int = 0):
    """Return first-order autoregressive noise."""
    fresh = np.random.default_rng(seed).normal(size=epochs) * spread
    values = fresh.copy()
    for t in range(1, epochs):
        values[t] = correlation * values[t - 1] + math.sqrt(1 - correlation**2) * fresh[t]
    return values


def saturating(epochs: int, rate: float = 30.0):
    """Return a curve that rises by 30 nats in all, with the time constant ``rate``."""
    return -120 + 30 * (1 - np.exp(-np.arange(1, epochs + 1) / rate))


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


def history(elbo, validation=None, learning_rate=None) -> pd.DataFrame:
    columns = {"elbo": elbo, "learning_rate": np.ones(len(elbo)) if learning_rate is None else learning_rate}
    if validation is not None:
        columns["validation_elbo"] = validation
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(elbo) + 1, name="epoch"))


FLAT, T = -90 + noise(200), np.arange(1, 101)
CURVES = {
    "flat": (FLAT, "converged"),
    "constant": (np.full(30, -3.0), "converged"),
    "cut very short": (saturating(20) + noise(20), "rising"),
    "cut short": (saturating(100) + noise(100), "rising"),
    "long enough": (saturating(400) + noise(400), "converged"),
    "falling": (-0.1 * T, "falling"),
    "noisy": (5.0 * (-1) ** T, "too much scatter"),
    "too few": (saturating(19), "too few epochs"),
}


@pytest.mark.parametrize(("curve", "state"), CURVES.values(), ids=CURVES)
def test_the_state_of_a_curve(curve, state):
    found = read_history(history(curve), 0.1)
    assert found.state == state
    assert str(found).startswith("Converged" if state == "converged" else "Not converged")
    assert found.to_frame().empty is (found.trend is None) is (state == "too few epochs")


def test_a_slow_rise_is_detected():
    """Doubling the epochs gains half a nat, 25 times the noise of one epoch."""
    slow = 0.5 / np.log(2) * np.log(np.arange(1, 301))
    found = read_history(history(slow + noise(300)), 0.1)
    assert found.state == "rising"
    assert abs(found.trend.gain - 0.5 / 0.9) < 3 * found.trend.gain_margin < 0.5


def test_overfitting():
    training, validation = saturating(100) + 0.05 * T, saturating(100, 10) - 0.05 * T + noise(100, 0.01)
    found = read_history(history(training, validation), 0.1)
    assert found.state == "overfitting"
    assert found.overfitting == pytest.approx(np.mean((training - validation)[-20:]))
    assert found.best_epoch == 1 + int(np.argmax(validation))
    assert f"epoch {found.best_epoch}" in found.reason
    assert list(found.to_frame().index) == ["training", "validation"]


def test_validation_bounds_that_do_not_cover_the_last_epochs_are_ignored():
    early, late = np.full(100, np.nan), np.full(100, np.nan)
    early[:40] = late[-5:] = 0.0
    for validation in (early, late):
        found = read_history(history(saturating(100), validation), 0.1)
        assert found.validation is None
        assert found.state == "rising"


def test_a_decayed_learning_rate_is_reported():
    found = read_history(history(FLAT, learning_rate=np.geomspace(1, 1e-3, 200)), 0.1)
    assert found.converged
    assert found.learning_rate == pytest.approx(1e-3)
    assert "learning rate" in found.reason
    assert "learning rate" not in read_history(history(FLAT), 0.1).reason


def test_large_bounds_have_a_larger_tolerance():
    found = read_history(history(-5e4 + saturating(100) / 30), 0.1)
    assert found.tolerance == pytest.approx(5, rel=0.01)
    assert found.converged


def test_bad_input():
    vi = avi.AmortizedVI(avi.models.LinearGaussian(torch.eye(2), scale=1.0), avi.encoders.MLP(2, []))
    with pytest.raises(NotFittedError, match="fit"):
        convergence(vi)
    with pytest.raises(OptionError, match="tolerance"):
        convergence(vi, tolerance=0)


@pytest.mark.parametrize(
    ("curve", "pace"),
    [(-50 + 0.1 * T, 1.0), (-50 + 5 * np.log(T), 0.43), (saturating(300)[:300], 0.0), (-50 + np.sqrt(T), 0.69)],
)
def test_the_pace_tells_a_straight_line_from_one_that_levels_off(curve, pace) -> None:
    trend = fit_trend(curve, len(curve))
    assert trend.pace == pytest.approx(pace, abs=0.05)
    assert trend.climb == pytest.approx(np.median(curve[-trend.window :]) - curve[0])


@pytest.mark.parametrize(
    ("curve", "unfinished"),
    [
        (-50 + 0.1 * T + noise(100), True),
        (saturating(20) + noise(20), True),
        (FLAT, False),
        (np.full(5, -3.0), True),
        (-50 + 30 * (1 - np.exp(-T / 15)) + 0.01 * T, False),
    ],
)
def test_unfinished_fits(curve, unfinished: bool) -> None:
    assert read_history(history(curve), 0.1).unfinished == unfinished
