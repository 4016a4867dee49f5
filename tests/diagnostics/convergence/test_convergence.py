"""Planted curves and real fits: done, cut short, hidden in scatter, overfitting."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import amortvi as avi
from amortvi.diagnostics.convergence.convergence import read_history
from amortvi.diagnostics.convergence.trend import fit_trend
from amortvi.errors import NotFittedError, OptionError


def history(elbo, validation=None, learning_rate=None) -> pd.DataFrame:
    columns = {"elbo": elbo, "learning_rate": np.ones(len(elbo)) if learning_rate is None else learning_rate}
    if validation is not None:
        columns["validation_elbo"] = validation
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(elbo) + 1, name="epoch"))


def noise(epochs: int, spread: float = 0.05, correlation: float = 0.0, seed: int = 0):
    """Autoregressive noise of the first order."""
    fresh = np.random.default_rng(seed).normal(size=epochs) * spread
    values = fresh.copy()
    for t in range(1, epochs):
        values[t] = correlation * values[t - 1] + math.sqrt(1 - correlation**2) * fresh[t]
    return values


def approach(epochs: int, rate: float = 30.0):
    """A curve that gains 30 nats, as quickly as ``exp(-epoch / rate)`` falls."""
    return -120 + 30 * (1 - np.exp(-np.arange(1, epochs + 1) / rate))


@pytest.mark.parametrize("epochs", [50, 100, 300])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_standard_error_covers(epochs, correlation):
    scores = []
    for seed in range(200):
        trend = fit_trend(-90 + noise(epochs, correlation=correlation, seed=seed), epochs)
        scores.append(abs(trend.slope / trend.slope_se) > trend.quantile)
    # 5 % of 200 are beyond a 95 % interval, give or take 3 (one standard deviation).
    assert sum(scores) <= 10 + 4 * 3


def test_a_line_is_found_and_outliers_do_not_count():
    values = 0.02 * np.arange(100) + noise(100)
    values[[85, 97]] -= 50
    trend = fit_trend(values, 100)
    assert trend.window == 20
    assert abs(trend.slope - 0.02) < 4 * trend.slope_se
    assert trend.rise == pytest.approx(20 * trend.slope)
    assert trend.slope_se < 0.01


def test_a_gain_as_the_logarithm_is_what_doubling_brings():
    values = 3 * np.log(np.arange(1, 401))
    trend = fit_trend(values, 400)
    assert trend.gain == pytest.approx(3 * math.log(2), rel=0.15)  # the slope is that of the middle of the window


@pytest.mark.parametrize("seed", range(5))
def test_flat_curves_have_converged(seed):
    found = read_history(history(-90 + noise(200, seed=seed)), 0.1)
    assert found.state == "converged"
    assert found.converged
    assert "levelled off" in found.reason


@pytest.mark.parametrize(("epochs", "state"), [(20, "rising"), (60, "rising"), (100, "rising"), (400, "converged")])
def test_a_fit_that_is_cut_short_is_told_from_one_that_is_done(epochs, state):
    found = read_history(history(approach(epochs) + noise(epochs)), 0.1)
    assert found.state == state
    assert found.converged is (state == "converged")


def test_a_slow_rise_is_seen():
    """Half a nat for as many epochs again, in scatter of a tenth of that."""
    slow = 0.5 / math.log(2) * np.log(np.arange(1, 301))
    found = read_history(history(slow + noise(300)), 0.1)
    assert found.state == "rising"
    assert abs(found.trend.gain - 0.5) < found.trend.gain_margin + 0.1
    assert "still rising" in str(found)


def test_scatter_that_hides_everything_is_said():
    found = read_history(history(noise(60, spread=5)), 0.1)
    assert found.state == "too much scatter"
    assert not found.converged


def test_too_few_epochs():
    found = read_history(history(approach(19)), 0.1)
    assert found.state == "too few epochs"
    assert "19 epochs are too few" in str(found)
    assert found.trend is None
    assert found.to_frame().empty


def test_constant_curves_have_converged():
    assert read_history(history(np.full(30, -3.0)), 0.1).converged


def test_overfitting_is_not_the_optimizers_fault():
    t = np.arange(1, 101)
    found = read_history(history(approach(100) + 0.05 * t, approach(100, 10) - 0.05 * t + noise(100, 0.01)), 0.1)
    assert found.state == "overfitting"
    assert found.overfitting == pytest.approx(np.mean((approach(100) - approach(100, 10) + 0.1 * t)[-20:]), abs=0.02)
    assert found.best_epoch == 1 + int(np.argmax(approach(100, 10) - 0.05 * t + noise(100, 0.01)))
    assert "overfits" in found.reason


def test_a_falling_bound():
    t = np.arange(1, 101)
    found = read_history(history(-0.1 * t), 0.1)
    assert found.state == "falling"
    assert "falling" in str(found)


def test_the_validation_bound_is_judged_where_there_is_one():
    """Training scatters, validation tells."""
    found = read_history(history(approach(100) + noise(100, 3), approach(100) + noise(100, 0.001)), 0.1)
    assert found.state == "rising"
    assert list(found.to_frame().index) == ["training", "validation"]
    early = np.full(100, np.nan)
    early[:40] = 0.0
    # Validation data of an earlier call, or of the last few epochs only, say nothing of the end.
    assert read_history(history(approach(100), early), 0.1).validation is None
    late = np.full(100, np.nan)
    late[-5:] = 0.0
    found = read_history(history(approach(100), late), 0.1)
    assert found.validation is None
    assert found.state == "rising"


def test_a_learning_rate_that_came_down_is_said():
    found = read_history(history(-90 + noise(100), learning_rate=np.geomspace(1, 1e-3, 100)), 0.1)
    assert found.converged
    assert found.learning_rate == pytest.approx(1e-3)
    assert "flattens any curve" in found.reason


def test_large_bounds_have_a_larger_tolerance():
    found = read_history(history(-5e4 + approach(100) / 30), 0.1)
    assert found.tolerance == pytest.approx(5, rel=0.01)
    assert found.converged


def test_real_fits():
    """The same fit at a tenth of its way and at its end."""
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.4], [0.3, 1.0], [0.5, -0.5]]), scale=0.5)
    x, held_out = model.simulate(200, seed=0), model.simulate(200, seed=1)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), "full", freeze_model=True)
    vi.fit(x, validation_data=held_out, epochs=20, batch_size=50, lr=0.01, progress=False, seed=0)
    assert avi.convergence(vi).state == "rising"
    vi.fit(x, validation_data=held_out, epochs=180, batch_size=50, lr=0.01, progress=False, seed=0)
    found = avi.convergence(vi)
    assert found.converged, str(found)
    assert found.epochs == 200
    gap = float(model.log_evidence(x).mean()) - vi.history["elbo"].iloc[-40:].mean()
    assert gap < 0.1


def test_bad_input():
    model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []))
    with pytest.raises(NotFittedError, match="call fit first"):
        avi.convergence(vi)
    with pytest.raises(OptionError, match="tolerance"):
        avi.convergence(vi, tolerance=0)
