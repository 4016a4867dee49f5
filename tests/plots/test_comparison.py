"""plot_comparison draws the table of `amortvi.compare`."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from scipy.stats import norm
from torch import Tensor

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.plots import plot_comparison
from amortvi.plots.palette import family_color

TABLE = pd.DataFrame(
    [[-2.0, 0.3, 0.0, 0.0], [-2.5, 0.4, -0.5, 0.1], [-4.0, 0.5, -2.0, 0.2]],
    index=["full", "low_rank", "diagonal"],
    columns=["elbo", "elbo_se", "difference", "difference_se"],
)


def drawn(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the points and the ends of the intervals."""
    points = np.concatenate([np.asarray(line.get_xydata()) for line in ax.lines if line.get_marker() == "o"])
    intervals = [bars.lines[2][0].get_segments()[0][:, 0] for bars in ax.containers]
    return points, np.array(intervals)


@pytest.mark.parametrize("column", ["elbo", "difference"])
def test_points_and_95_percent_intervals_are_those_of_the_table(
    ax: Axes, column: Literal["elbo", "difference"]
) -> None:
    assert plot_comparison(TABLE, column=column, ax=ax) is ax
    points, intervals = drawn(ax)
    np.testing.assert_allclose(points[:, 0], TABLE[column])
    np.testing.assert_allclose(intervals.mean(1), TABLE[column], atol=1e-12)
    np.testing.assert_allclose(np.ptp(intervals, axis=1) / 2, norm.ppf(0.975) * TABLE[f"{column}_se"], rtol=1e-3)
    assert "95% intervals" in ax.get_title()
    assert "nats per observation" in ax.get_xlabel()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TABLE.index)
    bottom, top = ax.get_ylim()
    assert top < ax.get_yticks()[0] < ax.get_yticks()[-1] < bottom  # the best is on top
    zero = [line for line in ax.lines if list(np.ravel(line.get_xdata())) == [0, 0]]
    assert len(zero) == (column == "difference")
    written = {"elbo": ["\u22122.00", "\u22122.50", "\u22124.00"], "difference": ["best", "\u22120.50", "\u22122.00"]}
    assert [text.get_text() for text in ax.texts] == written[column]


def test_families_have_their_colors_and_ties_are_hollow(ax: Axes) -> None:
    verdicts = ["best", "within noise of the best, but cut short", "worse"]
    plot_comparison(TABLE.assign(score="evidence", verdict=verdicts), ax=ax)
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [point.get_color() for point in points] == [family_color(name) for name in TABLE.index]
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, True, False]
    assert ax.get_title().startswith("Mean log evidence, difference to the best\n")
    assert "hollow: within noise" in ax.get_title()
    plot_comparison(TABLE.assign(verdict="unreliable"), ax=ax)
    assert ax.get_title().endswith("unreliable evidence: k-hat is too high")


@pytest.mark.filterwarnings("ignore::amortvi.errors.ConvergenceWarning")
def test_fits_are_compared(fits: avi.FamilyFits, x: Tensor, ax: Axes) -> None:
    plot_comparison(fits, x, particles=3, ax=ax)
    table = avi.compare(fits, x, particles=3)
    np.testing.assert_allclose(drawn(ax)[0][:, 0], table["difference"])
    for given in ({"x": x}, {"particles": 3}):
        with pytest.raises(OptionError, match="table is a result already"):
            plot_comparison(table, **given, ax=ax)
    with pytest.raises(OptionError, match=r"particle is not an option\. Did you mean particles"):
        plot_comparison(fits, x, particle=3, ax=ax)


def test_an_unknown_score_is_not_called_nan(ax: Axes) -> None:
    plot_comparison(TABLE.assign(difference=[0.0, -0.5, np.nan], difference_se=[0.0, 0.1, np.nan]), ax=ax)
    assert [text.get_text() for text in ax.texts] == ["best", "\u22120.50", "unknown"]
    ax.figure.canvas.draw()


def test_a_missing_standard_error_leaves_the_point(ax: Axes) -> None:
    plot_comparison(TABLE.assign(elbo_se=np.nan), column="elbo", ax=ax)
    points = [np.asarray(line.get_xdata())[0] for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, TABLE["elbo"])
    ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        (TABLE, "kl", r"column must be one of \['elbo', 'difference'\]; got 'kl'"),
        (TABLE.iloc[:0], "elbo", "table .* DataFrame has no rows"),
        (TABLE.drop(columns="elbo_se"), "elbo", r"table .* has no column \['elbo_se'\]"),
        ([1], "elbo", "table .* list has no column"),
    ],
)
def test_invalid_arguments_are_refused(table: Any, column: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plot_comparison(table, column=column)
    assert not pyplot.get_fignums()
