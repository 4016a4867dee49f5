"""plot_comparison draws the table of `amortvi.compare`."""

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from amortvi.errors import OptionError
from amortvi.plots import plot_comparison

TABLE = pd.DataFrame(
    [[-2.0, 0.3, 0.0, 0.0], [-2.5, 0.4, -0.5, 0.1], [-4.0, 0.5, -2.0, 0.2]],
    index=["full", "low_rank", "diagonal"],
    columns=["elbo", "elbo_se", "difference", "difference_se"],
)


@pytest.mark.parametrize("column", ["elbo", "difference"])
def test_points_and_error_bars_are_those_of_the_table(ax: Axes, column: Literal["elbo", "difference"]) -> None:
    assert plot_comparison(TABLE, column=column, ax=ax) is ax
    (bars,) = ax.containers
    assert isinstance(bars, ErrorbarContainer)
    points, _, (lines,) = bars.lines
    np.testing.assert_allclose(np.asarray(points.get_xdata()), TABLE[column])
    segments = np.array(lines.get_segments())
    np.testing.assert_allclose(np.ptp(segments[:, :, 0], axis=1), 2 * TABLE[f"{column}_se"], atol=1e-12)
    assert "nats per observation" in ax.get_xlabel()
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TABLE.index)
    bottom, top = ax.get_ylim()
    assert top < ax.get_yticks()[0] < ax.get_yticks()[-1] < bottom  # the best is on top
    zero = [line for line in ax.lines if list(np.ravel(line.get_xdata())) == [0, 0]]
    assert len(zero) == (column == "difference")


def test_a_missing_standard_error_leaves_the_point(ax: Axes) -> None:
    plot_comparison(TABLE.assign(elbo_se=np.nan), column="elbo", ax=ax)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata()), TABLE["elbo"])
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
