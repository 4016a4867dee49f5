"""plot_predictive_check draws the result of `amortvi.predictive_check`."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes

from amortvi.diagnostics.predictive import CheckedStatistic, PredictiveCheck
from amortvi.errors import OptionError
from amortvi.plots import plot_predictive_check

DRAWS = torch.linspace(0, 1, 40) ** 2


def check(*statistics: tuple[str, str, float]) -> PredictiveCheck:
    """Return a result with these statistics: site, name, value for the data."""
    return PredictiveCheck("prior", tuple(CheckedStatistic(*found, DRAWS) for found in statistics), {})


def test_histogram_of_the_replications_and_line_of_the_data(ax: Axes) -> None:
    found = check(("x", "mean", 0.2), ("x", "std", 0.9))
    assert plot_predictive_check(found, statistic="std", ax=ax) is ax
    bars = ax.patches
    assert sum(bar.get_height() for bar in bars) == 40
    ends = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
    assert (min(ends), max(ends)) == pytest.approx((0, 1))
    assert list(np.ravel(ax.lines[0].get_xdata())) == [0.9, 0.9]
    assert ax.get_xlabel() == "std of x"
    p = found.statistics[1].two_sided
    assert ax.get_title() == f"Data and replications: std of x\ntwo-sided p = {p:.2g}, prior latents"


def test_the_site_is_selected_and_the_smallest_p_value_is_the_default(ax: Axes) -> None:
    found = check(("x", "near", 0.3), ("x", "far", 3.0), ("y", "near", 0.5))
    for selected, label in (({}, "far of x"), ({"statistic": "near", "site": "y"}, "near of y")):
        plot_predictive_check(found, **selected, ax=ax)
        assert ax.get_xlabel() == label


@pytest.mark.parametrize("value", [0.0, 1e9, -3.0])
def test_equal_replications_have_one_bar(value: float, ax: Axes) -> None:
    equal = CheckedStatistic("x", "min", value, torch.full((20,), value))
    plot_predictive_check(PredictiveCheck("prior", (equal,), {}), ax=ax)
    assert [bar.get_height() for bar in ax.patches] == [20]
    ax.figure.canvas.draw()


def test_invalid_arguments_are_refused() -> None:
    found = check(("x", "mean", 0.5))
    with pytest.raises(OptionError, match=r"statistic='median', site=None .* \['mean of x'\]"):
        plot_predictive_check(found, statistic="median")
    with pytest.raises(OptionError, match="site='w'"):
        plot_predictive_check(found, site="w")
    assert not pyplot.get_fignums()
