"""What belongs to the caller's process is the same after any call, successful or not."""

import pyro
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from amortvi.errors import TrainingDiverged
from tests.bad_input.helpers import FEATURES, Rows, TurnsBad, data, estimator, fit, nothing_changes, refused


@pytest.mark.parametrize("validation", [True, False])
def test_validation_of_pyro(validation: bool) -> None:
    with pyro.validation_enabled(validation):
        with nothing_changes():
            vi = fit(estimator(), data(), validation_data=data())
            vi.evaluate(data(), particles=2, seed=0)
            vi.to_arviz(data(), 2, seed=0)
        with refused(TrainingDiverged, "epoch 1, step 1"):
            fit(estimator(TurnsBad(0)), data())


def test_default_type() -> None:
    """A model that contains ``torch.zeros(2)`` works in any type."""
    with nothing_changes():
        vi = fit(estimator(), data().double(), dtype=torch.float64)
        drawn = vi.sample_prior(3, seed=0)
    assert drawn["x"].dtype == torch.float64
    assert vi.predict(data().double(), 2, seed=0)["x"].dtype == torch.float64


def test_modes_of_modules() -> None:
    encoder = nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    encoder[1].eval()  # a mode of its own
    vi = fit(estimator(encoder=encoder), data())
    with nothing_changes(vi):
        vi.evaluate(data(), particles=2, seed=0)
        vi.to_arviz(data(), 2, seed=0)
        vi.predict(data(), 2, seed=0)
        vi.posterior(data()).mean  # noqa: B018
    assert [part.training for part in encoder] == [True, False, True]


def test_random_state_with_loaders() -> None:
    """A `DataLoader` draws a seed from the global generator at the start of each pass."""
    loader = DataLoader(TensorDataset(data()), batch_size=8, shuffle=True)
    vi = estimator()
    with nothing_changes():
        fit(vi, loader, validation_data=loader)
        fit(vi, Rows(data()))
        vi.evaluate(DataLoader(TensorDataset(data()), batch_size=8), particles=2, seed=0)
