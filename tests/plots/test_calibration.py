"""Plots of a calibration show its ranks and levels."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from amortvi.diagnostics.calibration import Calibration, CalibrationTest, ecdf_band
from amortvi.errors import OptionError
from amortvi.plots import plot_coverage, plot_rank_histogram, plot_ranks
from tests.plots.conftest import legend_texts

BAND = "95% band"
SIMULATIONS = 200


def calibration(quantities: int, wrong: int) -> Calibration:
    """Return a result in which the first ``wrong`` of the quantities were found to be too narrow."""
    generator = np.random.default_rng(0)
    names = [*(f"z[{i}]" for i in range(quantities - 1)), "log joint"]
    tests = []
    for position, name in enumerate(names):
        verdict, p_value = ("too narrow", 0.001 * position) if position < wrong else ("calibrated", 1.0)
        tests.append(CalibrationTest("marginal", name, 0.1, p_value, verdict, p_value))
    return Calibration(
        draws=50,
        tests=(*tests, CalibrationTest("spread", "all latents", 1.0, 0.0, "too narrow", 0.0)),
        ranks={name: generator.random(SIMULATIONS) for name in names},
        density_levels=generator.random((SIMULATIONS, 1)),
        reference_levels=generator.random((SIMULATIONS, 5)),
        whitened=generator.standard_normal((SIMULATIONS, quantities - 1)),
    )


def test_curves_are_the_distribution_functions_of_the_ranks(ax: Axes) -> None:
    found = calibration(4, wrong=0)
    assert plot_ranks(found, ax=ax) is ax
    drawn = sorted(tuple(line.get_ydata()) for line in ax.lines if len(line.get_xdata()) > 2)
    points, lower, upper = ecdf_band(SIMULATIONS, points=100)
    at = np.concatenate([[0], points])
    expected = sorted(tuple((ranks[:, None] <= at).mean(axis=0) - at) for ranks in found.ranks.values())
    np.testing.assert_allclose(drawn, expected, atol=1e-12)
    band = np.asarray(ax.collections[0].get_paths()[0].vertices)[:, 1]
    assert (band.min(), band.max()) == pytest.approx(((lower - points).min(), (upper - points).max()))
    assert legend_texts(ax) == [BAND, "all quantities"]
    assert ax.get_title() == "Ranks on 200 simulated observations\ntoo narrow"


def test_at_most_six_quantities_with_nonuniform_ranks_are_named_and_colored(ax: Axes) -> None:
    plot_ranks(calibration(13, wrong=12), ax=ax)
    assert legend_texts(ax) == [BAND, *(f"z[{i}]" for i in range(6)), "other quantities"]
    colors = [to_hex(line.get_color()) for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(set(colors[:6])) == 6
    assert colors[6:] == [to_hex("0.5")] * 7


def test_histogram_shows_the_ranks_of_one_quantity(ax: Axes) -> None:
    found = calibration(4, wrong=0)
    assert plot_rank_histogram(found, quantity="log joint", ax=ax) is ax
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_array_equal(heights, np.histogram(found.ranks["log joint"], bins=20, range=(0, 1))[0])
    assert ax.lines[0].get_ydata()[0] == SIMULATIONS / 20
    assert ax.get_xlabel() == "rank of log joint among the draws"
    assert ax.get_title() == "Ranks of log joint\n200 simulated observations, 99% band"
    plot_rank_histogram(calibration(4, wrong=2), ax=ax)
    assert ax.get_xlabel() == "rank of z[0] among the draws"  # the smallest p-value
    with pytest.raises(OptionError, match=r"quantity must be one of \['z\[0\]', .*; got 'w'"):
        plot_rank_histogram(found, quantity="w")


def test_coverage_is_that_of_the_calibration(ax: Axes) -> None:
    found = calibration(4, wrong=0)
    assert plot_coverage(found, ax=ax) is ax
    curves = [line for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(curves) == found.reference_levels.shape[1] + 1
    at = np.asarray(curves[0].get_xdata())
    inside = (at > 0) & (at < 1)
    expected = found.coverage(at[inside])
    *around, highest = (np.asarray(curve.get_ydata())[inside] for curve in curves)
    np.testing.assert_allclose(highest, expected["highest_density"])
    np.testing.assert_allclose(np.mean(around, axis=0), expected["around_references"])
    assert legend_texts(ax) == [BAND, "balls around points (TARP)", "highest-density regions"]
