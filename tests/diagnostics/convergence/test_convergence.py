"""Convergence of synthetic curves and of real fits: converged, cut short, noisy, overfitting."""

import numpy as np
import pandas as pd
import pytest
import torch

import amortvi as avi
from amortvi.diagnostics.convergence import convergence
from amortvi.diagnostics.convergence.convergence import read_history
from amortvi.errors import NotFittedError, OptionError
from tests.diagnostics.convergence.curves import noise, saturating


def history(elbo, validation=None, learning_rate=None) -> pd.DataFrame:
    columns = {"elbo": elbo, "learning_rate": np.ones(len(elbo)) if learning_rate is None else learning_rate}
    if validation is not None:
        columns["validation_elbo"] = validation
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(elbo) + 1, name="epoch"))


@pytest.mark.parametrize("seed", range(5))
def test_flat_curves_have_converged(seed):
    found = read_history(history(-90 + noise(200, seed=seed)), 0.1)
    assert found.state == "converged"
    assert found.converged


@pytest.mark.parametrize(("epochs", "state"), [(20, "rising"), (60, "rising"), (100, "rising"), (400, "converged")])
def test_curves_cut_short_are_rising(epochs, state):
    found = read_history(history(saturating(epochs) + noise(epochs)), 0.1)
    assert found.state == state
    assert found.converged is (state == "converged")


def test_a_slow_rise_is_detected():
    """Doubling the epochs gains half a nat, 25 times the noise of one epoch."""
    slow = 0.5 / np.log(2) * np.log(np.arange(1, 301))
    found = read_history(history(slow + noise(300)), 0.1)
    assert found.state == "rising"
    assert abs(found.trend.gain - 0.5 / 0.9) < 3 * found.trend.gain_margin < 0.5
    assert str(found).startswith("Not converged")


def test_curves_that_are_too_noisy():
    found = read_history(history(noise(60, spread=5)), 0.1)
    assert found.state == "too much scatter"
    assert not found.converged


def test_too_few_epochs():
    found = read_history(history(saturating(19)), 0.1)
    assert found.state == "too few epochs"
    assert "19 epochs" in str(found)
    assert found.trend is None
    assert found.to_frame().empty


def test_constant_curves_have_converged():
    assert read_history(history(np.full(30, -3.0)), 0.1).converged


def test_overfitting():
    t = np.arange(1, 101)
    training, validation = saturating(100) + 0.05 * t, saturating(100, 10) - 0.05 * t + noise(100, 0.01)
    found = read_history(history(training, validation), 0.1)
    assert found.state == "overfitting"
    assert found.overfitting == pytest.approx(np.mean((training - validation)[-20:]))
    assert found.best_epoch == 1 + int(np.argmax(validation))
    assert f"epoch {found.best_epoch}" in found.reason


def test_falling_curves():
    found = read_history(history(-0.1 * np.arange(1, 101)), 0.1)
    assert found.state == "falling"
    assert "falling" in str(found)


def test_the_validation_bound_is_judged_if_there_is_one():
    """A validation bound that rises clearly decides, however noisy the training bound is."""
    found = read_history(history(saturating(100) + noise(100, 3), saturating(100) + noise(100, 0.001)), 0.1)
    assert found.state == "rising"
    assert list(found.to_frame().index) == ["training", "validation"]


def test_validation_bounds_that_do_not_cover_the_last_epochs_are_ignored():
    early, late = np.full(100, np.nan), np.full(100, np.nan)
    early[:40] = late[-5:] = 0.0
    for validation in (early, late):
        found = read_history(history(saturating(100), validation), 0.1)
        assert found.validation is None
        assert found.state == "rising"


def test_a_decayed_learning_rate_is_reported():
    found = read_history(history(-90 + noise(100), learning_rate=np.geomspace(1, 1e-3, 100)), 0.1)
    assert found.converged
    assert found.learning_rate == pytest.approx(1e-3)
    assert "learning rate" in found.reason
    assert "learning rate" not in read_history(history(-90 + noise(100)), 0.1).reason


def test_large_bounds_have_a_larger_tolerance():
    found = read_history(history(-5e4 + saturating(100) / 30), 0.1)
    assert found.tolerance == pytest.approx(5, rel=0.01)
    assert found.converged


def test_a_real_fit_at_its_start_and_at_its_end():
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.4], [0.3, 1.0], [0.5, -0.5]]), scale=0.5)
    x, held_out = model.simulate(200, seed=0), model.simulate(200, seed=1)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), "full", freeze_model=True)
    vi.fit(x, validation_data=held_out, epochs=20, batch_size=100, lr=0.02, progress=False, seed=0)
    assert convergence(vi).state == "rising"
    vi.fit(x, validation_data=held_out, epochs=180, batch_size=100, lr=0.02, progress=False, seed=0)
    found = convergence(vi)
    assert found.converged, str(found)
    assert found.epochs == 200
    gap = float(model.log_evidence(x).mean()) - vi.history["elbo"].iloc[-40:].mean()
    assert gap < 0.1


def test_bad_input():
    vi = avi.AmortizedVI(avi.models.LinearGaussian(torch.eye(2), scale=1.0), avi.encoders.MLP(2, []))
    with pytest.raises(NotFittedError, match="fit"):
        convergence(vi)
    with pytest.raises(OptionError, match="tolerance"):
        convergence(vi, tolerance=0)
