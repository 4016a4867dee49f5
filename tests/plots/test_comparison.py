"""plot_comparison draws the table of amortvi.compare."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from torch import Tensor

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.plots import plot_comparison


@pytest.fixture(scope="module")
def table(fits: avi.FamilyFits, x: Tensor) -> pd.DataFrame:
    return avi.compare(fits, x, particles=5)


@pytest.mark.parametrize("column", ["elbo", "difference"])
def test_points_and_bars_are_the_tables(table: pd.DataFrame, ax: Axes, column: Literal["elbo", "difference"]) -> None:
    assert plot_comparison(table, column=column, ax=ax) is ax
    (bars,) = ax.containers
    assert isinstance(bars, ErrorbarContainer)
    points, _, (lines,) = bars.lines
    assert points is not None
    np.testing.assert_allclose(np.asarray(points.get_xdata()), table[column])
    segments = np.array(lines.get_segments())
    lengths = segments[:, 1, 0] - segments[:, 0, 0]
    np.testing.assert_allclose(lengths, 2 * table[f"{column}_se"], atol=1e-12)
    assert "nats per observation" in ax.get_xlabel()


def test_the_best_is_on_top(table: pd.DataFrame, ax: Axes) -> None:
    plot_comparison(table, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(table.index)
    bottom, top = ax.get_ylim()
    assert top < ax.get_yticks()[0] < ax.get_yticks()[-1] < bottom


def test_difference_has_a_line_at_zero(table: pd.DataFrame, ax: Axes) -> None:
    plot_comparison(table, ax=ax)
    assert any(list(np.ravel(line.get_xdata())) == [0, 0] for line in ax.lines)


def test_a_missing_standard_error_leaves_the_point(table: pd.DataFrame, ax: Axes) -> None:
    plot_comparison(table.assign(elbo_se=np.nan), column="elbo", ax=ax)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata()), table["elbo"])
    ax.figure.canvas.draw()


def test_wrong_column(table: pd.DataFrame) -> None:
    with pytest.raises(OptionError, match=r"column must be one of \['elbo', 'difference'\]; got 'kl'"):
        plot_comparison(table, column="kl")  # type: ignore[arg-type]


def test_wrong_tables(table: pd.DataFrame, fits: avi.FamilyFits) -> None:
    with pytest.raises(OptionError, match="DataFrame has no row"):
        plot_comparison(table.iloc[:0])
    with pytest.raises(OptionError, match=r"has no column \['elbo_se'\]"):
        plot_comparison(table.drop(columns="elbo_se"), column="elbo")
    with pytest.raises(OptionError, match="FamilyFits has no column"):
        plot_comparison(fits)  # type: ignore[arg-type]
    assert not pyplot.get_fignums()
