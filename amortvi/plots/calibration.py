"""How posteriors do on data simulated from their model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import stats
from amortvi.diagnostics.calibration import Calibration, ecdf_band
from amortvi.errors import OptionError
from amortvi.plots._axes import axes_or_new, legend_beside
from amortvi.plots._palette import PALETTE, color
from amortvi.plots._results import check_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_coverage", "plot_rank_histogram", "plot_ranks"]

_POINTS = 100
_BAND = "where an exact posterior\nstays with probability 0.95"
_BINS = 20
_LEAST_PER_BIN = 10


def plot_ranks(calibration: Calibration, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution functions of the ranks, less that of uniform ones, with a band that all of one stays in.

    Quantities that a test found to be off are colored and named, the worst ten of them; the others are gray. A curve that
    rises and then falls has too many small ranks, so the truth is below the draws; one that first rises and then dips below
    zero is a posterior too narrow, one that first dips is too wide (Säilynoja, Bürkner and Vehtari, 2022).

    Args:
        calibration: what `amortvi.calibrate` returns.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``calibration`` is something else.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_ranks(avi.calibrate(vi, 100, 20, seed=0), ax=Figure().subplots())
        >>> ax.get_xlabel()
        'rank of the truth among the draws'
    """
    check_result("calibration", calibration, Calibration, "amortvi.calibrate(vi)")
    ax = axes_or_new(ax)
    at, lower, upper = _band(calibration.simulations)
    ax.fill_between(at, lower - at, upper - at, color="0.9", linewidth=0, label=_BAND)
    p_values = {test.quantity: test.corrected for test in calibration.tests if test.quantity in calibration.ranks}
    off = {test.quantity for test in calibration.tests if test.verdict != "calibrated"}
    named = [name for name in sorted(p_values, key=lambda name: p_values[name]) if name in off][: len(PALETTE)]
    label: str | None = "others" if named else "no fault found"
    for name, ranks in calibration.ranks.items():
        difference = _share_below(ranks, at) - at
        if name in named:
            ax.plot(at, difference, color=color(named.index(name)), linewidth=1.5, label=name, zorder=3)
        else:
            ax.plot(at, difference, color="0.5", linewidth=0.8, label=label)
            label = None
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.set_xlim(0, 1)
    ax.set_xlabel("rank of the truth among the draws")
    ax.set_ylabel("share of ranks below, less the uniform share")
    legend_beside(ax)
    return ax


def plot_rank_histogram(calibration: Calibration, quantity: str, *, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the ranks of one quantity, with the interval that each bar is in with probability 0.99.

    A U is a posterior too narrow, a hump one too wide, a slope one that is shifted (Talts et al., 2018).

    Args:
        calibration: what `amortvi.calibrate` returns.
        quantity: a name in ``calibration.ranks``, such as ``"z[0]"`` or ``"log joint"``.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``calibration`` is something else, or has no such quantity.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_rank_histogram(avi.calibrate(vi, 100, 20, seed=0), "z[1]", ax=Figure().subplots())
        >>> int(sum(bar.get_height() for bar in ax.patches))
        100
    """
    check_result("calibration", calibration, Calibration, "amortvi.calibrate(vi)")
    if quantity not in calibration.ranks:
        raise OptionError(f"quantity must be one of {list(calibration.ranks)}; got {quantity!r}.")

    ax = axes_or_new(ax)
    bins = min(_BINS, max(2, calibration.simulations // _LEAST_PER_BIN))
    low, high = stats.binom.interval(0.99, calibration.simulations, 1 / bins)
    ax.hist(calibration.ranks[quantity], bins=bins, range=(0, 1), color=color(0), rwidth=0.92)
    ax.fill_between([0, 1], low, high, color="0.5", alpha=0.35, linewidth=0, zorder=2)
    ax.axhline(calibration.simulations / bins, color="0.3", linewidth=0.8)
    ax.set_xlim(0, 1)
    ax.set_xlabel(f"rank of {quantity} among the draws")
    ax.set_ylabel("simulations")
    return ax


def plot_coverage(calibration: Calibration, *, ax: Axes | None = None) -> Axes:
    """Draw how often regions hold the truth over how often they claim to, with a band that all of a curve stays in.

    One curve is that of the regions of highest density, the thin ones are those of balls around random reference points,
    one for each point (TARP). Below the diagonal a posterior is overconfident, above it is conservative;
    a shift takes the balls' curves to both sides.

    Args:
        calibration: what `amortvi.calibrate` returns.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``calibration`` is something else.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_coverage(avi.calibrate(vi, 100, 20, seed=0), ax=Figure().subplots())
        >>> ax.get_ylabel()
        'expected coverage'
    """
    check_result("calibration", calibration, Calibration, "amortvi.calibrate(vi)")
    ax = axes_or_new(ax)
    at, lower, upper = _band(calibration.simulations)
    ax.fill_between(at, lower, upper, color="0.9", linewidth=0, label=_BAND)
    ax.plot([0, 1], [0, 1], color="0.3", linewidth=0.8)
    for number, levels in enumerate(calibration.reference_levels.T):
        label = "balls around references\n(TARP)" if number == 0 else None
        ax.plot(at, _share_below(levels, at), color=color(1), linewidth=0.8, label=label)
    highest = _share_below(calibration.density_levels[:, 0], at)
    ax.plot(at, highest, color=color(0), linewidth=1.8, label="regions of highest density", zorder=3)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    ax.set_xlabel("probability that a region claims")
    ax.set_ylabel("expected coverage")
    legend_beside(ax)
    return ax


def _band(simulations: int) -> list[npt.NDArray[np.float64]]:
    """Return points from 0 to 1 with the lower and the upper end of the band there."""
    return [np.concatenate([[0.0], values]) for values in ecdf_band(simulations, points=_POINTS)]


def _share_below(values: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.searchsorted(np.sort(values), at, side="right") / len(values)
