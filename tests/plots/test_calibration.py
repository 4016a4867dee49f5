"""The pictures of a calibration show its ranks and levels."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import amortvi as avi
from amortvi.diagnostics import Calibration, ecdf_band
from amortvi.errors import OptionError
from amortvi.families import Diagonal
from amortvi.plots import plot_coverage, plot_rank_histogram, plot_ranks
from tests.exact import linear_gaussian, solved


@pytest.fixture(scope="module")
def exact() -> Calibration:
    return avi.calibrate(solved(linear_gaussian()), 200, 50, seed=0)


@pytest.fixture(scope="module")
def diagonal() -> Calibration:
    """Of latents whose correlation the posterior does not know."""
    return avi.calibrate(solved(linear_gaussian(), Diagonal), 2000, 50, seed=0)


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text().replace("\n", " ") for text in found.get_texts()]


BAND = "where an exact posterior stays with probability 0.95"


def test_ranks_of_an_exact_posterior_stay_in_the_band(exact: Calibration, ax: Axes) -> None:
    assert plot_ranks(exact, ax=ax) is ax
    curves = [np.asarray(line.get_data()) for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(curves) == len(exact.ranks)
    at, lower, upper = ecdf_band(exact.simulations, points=100)
    for (x, y), ranks in zip(curves, exact.ranks.values(), strict=True):
        np.testing.assert_allclose(y, (ranks[:, None] <= x).mean(axis=0) - x, atol=1e-12)
        np.testing.assert_allclose(x[1:], at)
        assert ((lower <= y[1:] + at) & (y[1:] + at <= upper)).all()
    vertices = ax.collections[0].get_paths()[0].vertices
    assert np.asarray(vertices)[:, 1].max() == pytest.approx((upper - at).max())
    assert legend(ax) == [BAND, "no fault found"]


def test_what_is_off_is_named_and_colored(diagonal: Calibration, ax: Axes) -> None:
    plot_ranks(diagonal, ax=ax)
    off = [test.quantity for test in diagonal.tests if test.verdict != "calibrated" and test.quantity in diagonal.ranks]
    assert 0 < len(off) < len(diagonal.ranks)
    assert sorted(legend(ax)) == sorted([BAND, "others", *off])
    colors = {line.get_label(): to_hex(line.get_color()) for line in ax.lines}
    assert len({colors[name] for name in off}) == len(off)
    assert colors["others"] == to_hex("0.5")


def test_more_faults_than_colors(ax: Axes) -> None:
    calibration = avi.calibrate(solved(linear_gaussian(12, 14), widen=0.5), 200, 30, seed=0)
    plot_ranks(calibration, ax=ax)
    assert len(legend(ax)) == 1 + 10 + 1


def test_histogram(exact: Calibration, ax: Axes) -> None:
    assert plot_rank_histogram(exact, "log joint", ax=ax) is ax
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_array_equal(heights, np.histogram(exact.ranks["log joint"], bins=20, range=(0, 1))[0])
    assert ax.lines[0].get_ydata()[0] == 10
    assert ax.get_xlabel() == "rank of log joint among the draws"


def test_coverage(exact: Calibration, diagonal: Calibration, ax: Axes) -> None:
    assert plot_coverage(diagonal, ax=ax) is ax
    curves = {line.get_label(): line for line in ax.lines if len(line.get_xdata()) > 2}
    assert len(curves) == 1 + diagonal.reference_levels.shape[1]
    x, y = curves["regions of highest density"].get_data()
    inside = (x > 0) & (x < 1)
    np.testing.assert_allclose(np.asarray(y)[inside], diagonal.coverage(np.asarray(x)[inside])["highest_density"])
    _, lower, _ = ecdf_band(diagonal.simulations)
    assert (np.asarray(y)[1:] < lower).any()  # it is too narrow
    assert legend(ax) == [BAND, "balls around references (TARP)", "regions of highest density"]


def test_nothing_else_is_drawn(exact: Calibration) -> None:
    for draw in (plot_ranks, plot_coverage, lambda given: plot_rank_histogram(given, "z[0]")):
        with pytest.raises(OptionError, match=r"calibration must be what amortvi.calibrate\(vi\) returns; got dict"):
            draw({})
    with pytest.raises(OptionError, match=r"quantity must be one of \['z\[0\]', .*; got 'w'"):
        plot_rank_histogram(exact, "w")
