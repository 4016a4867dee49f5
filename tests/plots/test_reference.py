"""An approximate posterior beside the exact one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from amortvi import plots
from amortvi.diagnostics import Reference
from amortvi.errors import DataError, OptionError
from amortvi.posterior.posterior import Posterior

ROWS = 3


@pytest.fixture(scope="module")
def few(posterior: Posterior) -> Posterior:
    return posterior.select(slice(0, ROWS))


@pytest.fixture(scope="module")
def exact(few: Posterior) -> Reference:
    """Draws such as NUTS would return: of 2 chains, with a covariance that is known."""
    noise = torch.randn(2, 2000, ROWS, few.latents.dim, generator=torch.Generator().manual_seed(0))
    vector = noise * torch.tensor([1.0, 2.0, 3.0]) + 10 * torch.arange(ROWS).unsqueeze(-1)
    ones = torch.ones(ROWS)
    return Reference(vector, torch.zeros(2, 2000, ROWS, dtype=torch.bool), ones, 4000 * ones, few.prototype, None)


def test_points_are_draws_and_ellipses_hold_them(exact: Reference, few: Posterior, ax: Axes) -> None:
    assert plots.plot_reference(exact, few, -1, (0, 2), ax=ax) is ax
    points, ellipse, theirs, _ = (np.asarray(line.get_xydata()) for line in ax.get_lines())
    assert len(points) == 1000
    np.testing.assert_allclose(points[0], exact.vector[0, 0, 2, [0, 2]])
    # Of a Gaussian's draws 90% are within its ellipse, whose half axes are 2.146 standard deviations.
    inside = (((points - 20) / (2.146 * np.array([1.0, 3.0]))) ** 2).sum(1) < 1
    assert inside.mean() == pytest.approx(0.9, abs=0.05)
    np.testing.assert_allclose(np.ptp(ellipse, axis=0) / 2, 2.146 * np.array([1, 3]), rtol=0.05)
    np.testing.assert_allclose(theirs.mean(0), few.mean["z"][2, [0, 2]], atol=0.1)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("z[0]", "z[2]", "observation 2")
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["NUTS", "approximate posterior"]


def test_one_latent_as_histograms(exact: Reference, few: Posterior, ax: Axes) -> None:
    plots.plot_reference(exact, few, 0, [1], ax=ax)
    for outline in ax.patches:
        x, y = np.asarray(outline.get_path().vertices).T
        assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(1)
    assert np.average(x, weights=y) == pytest.approx(float(few.mean["z"][0, 1]), abs=0.2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z[1]", "density")


def test_a_seed_reproduces(exact: Reference, few: Posterior, ax: Axes) -> None:
    state = torch.get_rng_state()
    for _ in range(2):
        plots.plot_reference(exact, few, seed=3, ax=ax)
    assert torch.equal(torch.get_rng_state(), state)
    first, again = (np.asarray(ax.get_lines()[i].get_xydata()) for i in (2, 6))
    np.testing.assert_array_equal(first, again)


def test_bad_arguments(exact: Reference, few: Posterior, posterior: Posterior, ax: Axes) -> None:
    with pytest.raises(OptionError, match="observation must be a position among the 3 observations; got 3"):
        plots.plot_reference(exact, few, 3, ax=ax)
    with pytest.raises(OptionError, match="coordinates must be a position among the 3 latents; got 'z'"):
        plots.plot_reference(exact, few, 0, "z", ax=ax)
    with pytest.raises(OptionError, match="coordinates must be one or two positions; got 3"):
        plots.plot_reference(exact, few, 0, (0, 1, 2), ax=ax)
    with pytest.raises(DataError, match="it is of 60 with"):
        plots.plot_reference(exact, posterior, ax=ax)
    with pytest.raises(DataError, match="their labels differ"):
        plots.plot_reference(replace(exact, index=[1, 2, 3]), _labelled(few, [1, 2, 4]), ax=ax)


def _labelled(posterior: Posterior, index: list[int]) -> Posterior:
    labelled = posterior.select(slice(None))
    labelled.observations.index = index
    return labelled
