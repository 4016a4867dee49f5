"""Posteriors and fits to draw. Figures are closed and matplotlib's settings must be unchanged after each test."""

from collections.abc import Iterator

import matplotlib
import pytest
from torch import Tensor

import amortvi as avi
from amortvi.posterior import Posterior
from tests.exact import linear_gaussian, solved

matplotlib.use("Agg")

from matplotlib import pyplot  # after the backend is chosen
from matplotlib.axes import Axes


@pytest.fixture(autouse=True)
def unchanged_settings() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    pyplot.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def ax() -> Axes:
    return pyplot.subplots()[1]


def legend_texts(ax: Axes) -> list[str]:
    """Return the entries of the legend, each on one line."""
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text().replace("\n", " ") for text in legend.get_texts()]


@pytest.fixture(scope="session")
def vi() -> avi.AmortizedVI:
    """An estimator with the exact posterior of three latents of a linear Gaussian model; no training."""
    return solved(linear_gaussian(3, 4))


@pytest.fixture(scope="session")
def x(vi: avi.AmortizedVI) -> Tensor:
    return vi.model.simulate(60, seed=0)


@pytest.fixture(scope="session")
def posterior(vi: avi.AmortizedVI, x: Tensor) -> Posterior:
    return vi.posterior(x)


@pytest.fixture(scope="session")
def fits(x: Tensor) -> avi.FamilyFits:
    """Two families with two seeds each and validation data, barely trained."""
    model, encoder = linear_gaussian(3, 4), avi.encoders.MLP(4, [])
    options = {"freeze_model": True, "epochs": 4, "batch_size": 20, "lr": 0.05, "progress": False}
    families, seeds = ["diagonal", "full"], [0, 1]
    return avi.fit_families(model, encoder, families, x[:40], seeds=seeds, validation_data=x[40:], **options)
