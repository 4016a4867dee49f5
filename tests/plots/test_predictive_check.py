"""plot_predictive_check draws what amortvi.predictive_check returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics import PredictiveCheck
from amortvi.diagnostics.predictive.site_check import CheckedStatistic
from amortvi.errors import OptionError
from amortvi.plots import plot_predictive_check


@pytest.fixture(scope="module")
def check(fits: avi.FamilyFits, x: Tensor) -> PredictiveCheck:
    return avi.predictive_check(fits["full"], x, draws=40, seed=0)


def test_the_histogram_holds_all_replications_and_the_line_is_the_data(check: PredictiveCheck, ax: Axes) -> None:
    assert plot_predictive_check(check, "std", ax=ax) is ax
    (statistic,) = (found for found in check.statistics if found.name == "std")
    bars = ax.patches
    assert sum(bar.get_height() for bar in bars) == 40  # type: ignore[attr-defined]  # they are rectangles
    ends = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]  # type: ignore[attr-defined]
    assert min(ends) == pytest.approx(float(statistic.replicated.min()))
    assert max(ends) == pytest.approx(float(statistic.replicated.max()))
    assert list(np.ravel(ax.lines[0].get_xdata())) == [statistic.observed] * 2
    assert ax.get_xlabel() == "std of x"
    assert f"{statistic.two_sided:.2g}" in ax.get_title()


def test_the_farthest_out_by_default(ax: Axes) -> None:
    draws = torch.linspace(0, 1, 20)
    statistics = tuple(CheckedStatistic("x", name, at, draws) for name, at in (("near", 0.5), ("far", 3.0)))
    plot_predictive_check(PredictiveCheck("prior", statistics, {}), ax=ax)
    assert ax.get_xlabel() == "far of x"


@pytest.mark.parametrize("value", [0.0, 1e9, -3.0])
def test_replications_that_are_all_alike(value: float, ax: Axes) -> None:
    check = PredictiveCheck("prior", (CheckedStatistic("x", "min", value, torch.full((20,), value)),), {})
    plot_predictive_check(check, ax=ax)
    assert sum(bar.get_height() for bar in ax.patches) == 20  # type: ignore[attr-defined]
    ax.figure.canvas.draw()


def test_several_sites(ax: Axes) -> None:
    draws = torch.linspace(0, 1, 20)
    statistics = tuple(CheckedStatistic(site, "mean", 0.5, draws) for site in ("x", "y"))
    plot_predictive_check(PredictiveCheck("prior", statistics, {}), "mean", site="y", ax=ax)
    assert ax.get_xlabel() == "mean of y"


def test_wrong_arguments(check: PredictiveCheck) -> None:
    with pytest.raises(OptionError, match=r"no statistic 'median' of site None; there is \['mean of x', "):
        plot_predictive_check(check, "median")
    with pytest.raises(OptionError, match="of site 'w'"):
        plot_predictive_check(check, site="w")
    with pytest.raises(OptionError, match=r"check must be what amortvi\.predictive_check returns; got float"):
        plot_predictive_check(3.0)  # type: ignore[arg-type]
    assert not pyplot.get_fignums()
