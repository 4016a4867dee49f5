"""plot_history draws vi.history."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch import Tensor

import amortvi as avi
from amortvi.errors import NotFittedError, OptionError
from amortvi.plots import plot_history
from amortvi.plots._palette import PALETTE
from amortvi.plots.history import _limits


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


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


def test_every_seed_of_a_family_has_the_familys_color(fits: avi.FamilyFits, ax: Axes) -> None:
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


def test_plain_mapping(fits: avi.FamilyFits, ax: Axes) -> None:
    plot_history({"mine": fits["full"], "yours": fits["diagonal"]}, ax=ax)
    assert legend_texts(ax)[:2] == ["mine", "yours"]


def test_without_validation_there_is_one_line_and_no_legend(
    model: avi.models.LinearGaussian, x: Tensor, ax: Axes
) -> None:
    vi = avi.AmortizedVI(model, avi.encoders.MLP(4, [])).fit(x, epochs=1, seed=0, progress=False)
    plot_history(vi, ax=ax)
    assert len(ax.lines) == 1
    assert ax.get_legend() is None
    assert ax.lines[0].get_marker() == "o"  # a line of one epoch would not be seen


def test_limits_leave_out_a_start_far_below() -> None:
    low, high = _limits([np.array([-5000.0, -40.0, -30.0, -28.0, -27.0, -26.5, -26.2, -26.1])])
    assert -60 < low < -40 + 1e-9
    assert -26.1 < high < -24


def test_limits_hold_a_curve_that_climbs_evenly_and_one_far_below_the_others() -> None:
    even, bad = np.linspace(-20, -10, 11), np.full(11, -90.0)
    low, high = _limits([even, even, even, even, bad])
    assert low < -90
    assert high > -10


def test_limits_of_constant_and_partly_missing_curves() -> None:
    low, high = _limits([np.array([-3.0, np.nan, -3.0])])
    assert low < -3 < high


def test_new_figure(fits: avi.FamilyFits) -> None:
    ax = plot_history(fits)
    assert [pyplot.figure(number) for number in pyplot.get_fignums()] == [ax.figure]


def test_unfitted(model: avi.models.LinearGaussian) -> None:
    vi = avi.AmortizedVI(model, avi.encoders.MLP(4, []))
    with pytest.raises(NotFittedError, match="call fit first"):
        plot_history({"new": vi})
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("wrong", [{}, [1], {"full": 3}, avi.FamilyFits([])])
def test_wrong_fits(wrong: object) -> None:
    with pytest.raises(OptionError, match="fits"):
        plot_history(wrong)  # type: ignore[arg-type]
