"""plot_reference draws an approximate posterior over draws from the exact one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.reference import Reference
from amortvi.errors import DataError, OptionError
from amortvi.plots import plot_reference
from amortvi.posterior import Posterior
from tests.plots.conftest import legend_texts

ROWS, DRAWS = 3, 4000
HALF_AXIS = 2.146
"""The half axis, in standard deviations, of the ellipse that contains 90% of a Gaussian in two dimensions."""


@pytest.fixture(scope="module")
def few(posterior: Posterior) -> Posterior:
    return posterior.select(slice(0, ROWS))


@pytest.fixture(scope="module")
def exact(few: Posterior) -> Reference:
    """Draws like those of NUTS, in 2 chains: mean 10 times the position of the observation, known standard deviations."""
    noise = torch.randn(2, DRAWS // 2, ROWS, few.latents.dim, generator=torch.Generator().manual_seed(0))
    vector = noise * torch.tensor([1.0, 2.0, 3.0]) + 10 * torch.arange(ROWS).unsqueeze(-1)
    ones = torch.ones(ROWS)
    return Reference(vector, vector[..., 0] > torch.inf, ones, DRAWS * ones, few.model.structure, None)


def test_two_coordinates_as_points_and_ellipses(exact: Reference, few: Posterior, ax: Axes) -> None:
    assert plot_reference(exact, few, -1, (0, 2), ax=ax) is ax
    points, ellipse, approximate, _ = (np.asarray(line.get_xydata()) for line in ax.get_lines())
    assert len(points) == 1000
    np.testing.assert_allclose(points[0], exact.vector[0, 0, 2, [0, 2]])
    sd = np.array([1.0, 3.0])
    inside = (((points - 20) / (HALF_AXIS * sd)) ** 2).sum(1) < 1
    assert abs(inside.mean() - 0.9) < 5 * np.sqrt(0.9 * 0.1 / len(points))
    # The standard error of an estimated standard deviation is sd / sqrt(2 n).
    np.testing.assert_allclose(np.ptp(ellipse, axis=0) / 2, HALF_AXIS * sd, rtol=5 / np.sqrt(2 * DRAWS))
    error = few.std["z"][2, [0, 2]].numpy() / np.sqrt(len(approximate))
    assert (np.abs(approximate.mean(0) - few.mean["z"][2, [0, 2]].numpy()) < 5 * error).all()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z[0]", "z[2]")
    assert ax.get_title() == "Posterior of observation 2\n90% ellipses of 4000 draws each"
    assert legend_texts(ax) == ["NUTS", "approximate posterior"]


def test_one_coordinate_as_histograms(exact: Reference, few: Posterior, ax: Axes) -> None:
    plot_reference(exact, few, 0, [1], ax=ax)
    for outline in ax.patches:
        x, y = np.asarray(outline.get_path().vertices).T
        assert np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) == pytest.approx(1)
    # Within one bin, beside which the standard error of the mean is small.
    assert np.average(x, weights=y) == pytest.approx(float(few.mean["z"][0, 1]), abs=np.diff(x).max())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z[1]", "density")


@pytest.mark.filterwarnings("ignore")  # these are too few draws
def test_an_estimator_draws_from_the_posterior_of_the_shown_observation(
    vi: avi.AmortizedVI, x: Tensor, posterior: Posterior, ax: Axes
) -> None:
    options = {"chains": 2, "draws": 20, "warmup": 20, "progress": False}
    plot_reference(vi, x, 5, ax=ax, **options)
    points = np.asarray(ax.get_lines()[0].get_xydata())
    assert len(points) == 40
    error = posterior.std["z"][5, :2].numpy()
    assert (np.abs(points.mean(0) - posterior.mean["z"][5, :2].numpy()) < 1.5 * error).all()
    assert ax.get_title().startswith("Posterior of observation 5\n")


def test_the_seed_reproduces_the_draws(exact: Reference, few: Posterior, ax: Axes) -> None:
    state = torch.get_rng_state()
    for _ in range(2):
        plot_reference(exact, few, seed=3, ax=ax)
    assert torch.equal(torch.get_rng_state(), state)
    first, again = (np.asarray(ax.get_lines()[i].get_xydata()) for i in (2, 6))
    np.testing.assert_array_equal(first, again)


def test_invalid_arguments_are_refused(exact: Reference, few: Posterior, posterior: Posterior, ax: Axes) -> None:
    for arguments, message in (
        ([3], "observation must be a position among the 3 observations; got 3"),
        ([0, "z"], "coordinates must be a position among the 3 coordinates; got 'z'"),
        ([0, (0, 1, 2)], "coordinates must be one or two positions; got 3"),
    ):
        with pytest.raises(OptionError, match=message):
            plot_reference(exact, few, *arguments, ax=ax)
    with pytest.raises(OptionError, match="posterior must be a Posterior"):
        plot_reference(exact, exact, ax=ax)
    with pytest.raises(DataError, match="got 60 observations"):
        plot_reference(exact, posterior, ax=ax)
    labeled = few.select(slice(None))
    labeled.observations.index = [1, 2, 4]
    with pytest.raises(DataError, match="labels differ"):
        plot_reference(replace(exact, index=[1, 2, 3]), labeled, ax=ax)
