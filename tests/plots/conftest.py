"""Small fits to draw, and the promise that no figure is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import pytest
import torch
from torch import Tensor

import amortvi as avi
from amortvi.posterior.posterior import Posterior

matplotlib.use("Agg")

from matplotlib import pyplot  # the backend is chosen before
from matplotlib.axes import Axes


@pytest.fixture(autouse=True)
def untouched_settings() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    pyplot.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def ax() -> Axes:
    return pyplot.subplots()[1]


@pytest.fixture(scope="session")
def model() -> avi.models.LinearGaussian:
    W = torch.tensor([[1.0, 0.8, 0.0], [0.3, 1.0, 0.5], [0.0, 0.2, 2.0], [1.0, 0.0, 1.0]])
    return avi.models.LinearGaussian(W, scale=0.7)


@pytest.fixture(scope="session")
def x(model: avi.models.LinearGaussian) -> Tensor:
    return model.simulate(60, seed=0)


@pytest.fixture(scope="session")
def fits(model: avi.models.LinearGaussian, x: Tensor) -> avi.FamilyFits:
    return avi.fit_families(
        model,
        avi.encoders.MLP(4, []),
        ["diagonal", "full"],
        x[:40],
        seeds=[0, 1],
        validation_data=x[40:],
        epochs=15,
        batch_size=8,
        lr=0.05,
        freeze_model=True,
        progress=False,
    )


@pytest.fixture(scope="session")
def posterior(fits: avi.FamilyFits, x: Tensor) -> Posterior:
    return fits["full"].posterior(x)
