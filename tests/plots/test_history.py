"""plot_history draws `AmortizedVI.history`."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch import Tensor

import amortvi as avi
from amortvi.errors import NotFittedError, OptionError
from amortvi.plots import plot_history
from amortvi.plots._axes import PALETTE
from amortvi.plots.history import shown_range
from tests.plots.conftest import legend_texts


def test_lines_are_the_history(fits: avi.FamilyFits, ax: Axes) -> None:
    vi = fits["full"]
    assert plot_history(vi, ax=ax) is ax
    training, validation = ax.lines
    for line, column, style in ((training, "elbo", "-"), (validation, "validation_elbo", "--")):
        np.testing.assert_array_equal(line.get_xdata(), vi.history.index)
        np.testing.assert_array_equal(line.get_ydata(), vi.history[column])
        assert line.get_linestyle() == style
    assert legend_texts(ax) == ["training", "validation"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "ELBO (nats per observation)")


def test_all_seeds_of_a_family_have_its_color(fits: avi.FamilyFits, ax: Axes) -> None:
    plot_history(fits, ax=ax)
    drawn = {(to_hex(line.get_color()).upper(), tuple(np.asarray(line.get_ydata()))) for line in ax.lines}
    expected = {
        (PALETTE[position], tuple(fit.vi.history[column]))
        for position, family in enumerate(fits)
        for fit in fits.of(family)
        for column in ("elbo", "validation_elbo")
    }
    assert drawn == expected
    assert legend_texts(ax) == ["diagonal", "full", "training", "validation"]


def test_fits_in_a_dict_have_its_names(fits: avi.FamilyFits) -> None:
    ax = plot_history({"first": fits["full"], "second": fits["diagonal"]})
    assert legend_texts(ax)[:2] == ["first", "second"]
    assert [pyplot.figure(number) for number in pyplot.get_fignums()] == [ax.figure]


def test_one_epoch_without_validation_is_a_point_without_legend(x: Tensor, ax: Axes) -> None:
    vi = avi.AmortizedVI(avi.models.LinearGaussian(torch.ones(4, 1), scale=1.0), avi.encoders.MLP(4, []))
    plot_history(vi.fit(x.float(), epochs=1, seed=0, progress=False), ax=ax)
    assert len(ax.lines) == 1
    assert ax.get_legend() is None
    assert ax.lines[0].get_marker() == "o"  # a line of one epoch would be invisible


EVEN = np.linspace(-20, -10, 11)


@pytest.mark.parametrize(
    ("curves", "low", "high"),
    [
        ([np.array([-5000.0, -40.0, -30.0, -28.0, -27.0, -26.5, -26.2, -26.1])], (-60, -39.9), (-26.1, -24)),
        ([EVEN, EVEN, EVEN, EVEN, np.full(11, -90.0)], (-100, -90), (-10, -1)),
        ([np.array([-3.0, np.nan, -3.0])], (-4, -3), (-3, -2)),
    ],
    ids=["a start far below", "even curves and one below", "a constant with a missing value"],
)
def test_the_shown_range(curves: list[np.ndarray], low: tuple[float, float], high: tuple[float, float]) -> None:
    for found, (above, below) in zip(shown_range(curves), (low, high), strict=True):
        assert above < found < below


@pytest.mark.parametrize("wrong", [{}, [1], {"full": 3}, avi.FamilyFits([])])
def test_other_objects_and_fits_without_epochs_are_refused(wrong: Any, vi: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="fits"):
        plot_history(wrong)
    with pytest.raises(NotFittedError, match="call fit first"):
        plot_history({"new": vi})
    assert not pyplot.get_fignums()
