"""Ranks and expected coverage of a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import stats
from amortvi.diagnostics.calibration import Calibration, calibrate, ecdf_band
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import result_of
from amortvi.plots._axes import axes_or_new, finish, legend_beside
from amortvi.plots.palette import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_coverage", "plot_rank_histogram", "plot_ranks"]

_POINTS = 100
_BAND = "95% band"
_MOST_NAMED = 6
_BINS = 20
_LEAST_PER_BIN = 10
_SQUARE = (3.6, 3.8)
"""The size of a figure with square Axes, in inches."""


def plot_ranks(
    calibration: Calibration | AmortizedVI, x: Any = None, *, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw the distribution function of the ranks of each quantity minus that of uniform ranks.

    If the posterior is exact, the whole curve of one quantity lies inside the band with probability 0.95. The quantities whose
    ranks are not uniform are colored and named, at most the six with the smallest p-values; the others are gray. A curve above
    zero means that the truth is often lower than the draws. A curve that is first above and then below zero means that the
    posterior is too narrow, the reverse that it is too wide (Säilynoja, Bürkner and Vehtari, 2022).

    Args:
        calibration: the result of `amortvi.calibrate`, or a fitted estimator.
        x: if an estimator is given, observations that provide sizes and covariates; by default some of the training data.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.calibrate`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``calibration`` is something else; or ``x`` or options came with a result.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(torch.randn(20, 2), seed=0)
        >>> ax = plot_ranks(avi.calibrate(vi, 100, 20, seed=0), ax=Figure().subplots())
        >>> ax.get_xlabel()
        'rank of the truth among the draws'
    """
    calibration = result_of("calibration", calibration, x, Calibration, calibrate, options)
    tests = sorted(calibration.tests, key=lambda test: test.corrected)
    nonuniform = [test.quantity for test in tests if test.verdict != "calibrated"]
    named = [quantity for quantity in nonuniform if quantity in calibration.ranks][:_MOST_NAMED]
    ax = axes_or_new(ax)
    at, lower, upper = _band(calibration.simulations)
    ax.fill_between(at, lower - at, upper - at, color="0.9", linewidth=0, label=_BAND)
    for place, name in enumerate(named):
        curve = _share_below(calibration.ranks[name], at) - at
        ax.plot(at, curve, color=color(place), linewidth=1.5, label=name, zorder=3)
    label: str | None = "other quantities" if named else "all quantities"
    for name in (name for name in calibration.ranks if name not in named):
        ax.plot(at, _share_below(calibration.ranks[name], at) - at, color="0.5", linewidth=0.8, label=label)
        label = None
    ax.axhline(0, color="0.3", linewidth=0.8)
    ax.set(xlim=(0, 1), xlabel="rank of the truth among the draws", ylabel="ECDF − uniform CDF")
    legend_beside(ax)
    finish(ax, f"Ranks on {calibration.simulations} simulated observations", calibration.verdict, grid="both")
    return ax


def plot_rank_histogram(
    calibration: Calibration | AmortizedVI,
    x: Any = None,
    *,
    quantity: str | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw the histogram of the ranks of one quantity.

    If the posterior is exact, each bar ends inside the gray band with probability 0.99. A U shape means that the posterior is
    too narrow, a hump that it is too wide, a slope that it is shifted (Talts et al., 2018).

    Args:
        calibration: the result of `amortvi.calibrate`, or a fitted estimator.
        x: if an estimator is given, observations that provide sizes and covariates; by default some of the training data.
        quantity: a name in ``calibration.ranks``, such as ``"z[0]"`` or ``"log joint"``; by default that with the smallest
            p-value.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.calibrate`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``calibration`` is something else, or has no such quantity; or ``x`` or options came with a result.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(torch.randn(20, 2), seed=0)
        >>> ax = plot_rank_histogram(avi.calibrate(vi, 100, 20, seed=0), quantity="z[1]", ax=Figure().subplots())
        >>> int(sum(bar.get_height() for bar in ax.patches))
        100
    """
    calibration = result_of("calibration", calibration, x, Calibration, calibrate, options)
    if quantity is None:
        ranked = [test for test in calibration.tests if test.quantity in calibration.ranks]
        quantity = min(ranked, key=lambda test: test.corrected).quantity
    if quantity not in calibration.ranks:
        raise OptionError(f"quantity must be one of {list(calibration.ranks)}; got {quantity!r}.")
    ax = axes_or_new(ax)
    bins = min(_BINS, max(2, calibration.simulations // _LEAST_PER_BIN))
    low, high = stats.binom.interval(0.99, calibration.simulations, 1 / bins)
    ax.hist(calibration.ranks[quantity], bins=bins, range=(0, 1), color=color(0), rwidth=0.92)
    ax.fill_between([0, 1], low, high, color="0.5", alpha=0.35, linewidth=0, zorder=2)
    ax.axhline(calibration.simulations / bins, color="0.3", linewidth=0.8)
    ax.set(xlim=(0, 1), xlabel=f"rank of {quantity} among the draws", ylabel="simulations")
    detail = f"{calibration.simulations} simulated observations, 99% band"
    finish(ax, f"Ranks of {quantity}", detail, grid="y")
    return ax


def plot_coverage(
    calibration: Calibration | AmortizedVI, x: Any = None, *, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw the expected coverage of credible regions against their nominal probability.

    The thick curve is that of highest-density regions; the thin curves are those of balls around random reference points, one
    per point (TARP). If the posterior is exact, a whole curve lies inside the band with probability 0.95. An overconfident
    posterior has curves below the diagonal, a conservative one above; for a shifted one, the thin curves lie on both sides.

    Args:
        calibration: the result of `amortvi.calibrate`, or a fitted estimator.
        x: if an estimator is given, observations that provide sizes and covariates; by default some of the training data.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.calibrate`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``calibration`` is something else; or ``x`` or options came with a result.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(torch.randn(20, 2), seed=0)
        >>> ax = plot_coverage(avi.calibrate(vi, 100, 20, seed=0), ax=Figure().subplots())
        >>> ax.get_ylabel()
        'expected coverage'
    """
    calibration = result_of("calibration", calibration, x, Calibration, calibrate, options)
    ax = axes_or_new(ax, _SQUARE)
    at, lower, upper = _band(calibration.simulations)
    ax.fill_between(at, lower, upper, color="0.9", linewidth=0, label=_BAND)
    ax.plot([0, 1], [0, 1], color="0.3", linewidth=0.8)
    for position, levels in enumerate(calibration.reference_levels.T):
        label = "balls around points (TARP)" if position == 0 else None
        ax.plot(at, _share_below(levels, at), color=color(1), linewidth=0.8, label=label)
    highest = _share_below(calibration.density_levels[:, 0], at)
    ax.plot(at, highest, color=color(0), linewidth=1.8, label="highest-density regions", zorder=3)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="nominal probability", ylabel="expected coverage")
    ax.legend(loc="best", fontsize="x-small", frameon=False)
    finish(ax, f"Coverage on {calibration.simulations} simulated observations", calibration.verdict, grid="both")
    return ax


def _band(simulations: int) -> list[npt.NDArray[np.float64]]:
    """Return points from 0 to 1, and the lower and the upper end of the band at these points."""
    return [np.concatenate([[0.0], values]) for values in ecdf_band(simulations, points=_POINTS)]


def _share_below(values: npt.NDArray[np.float64], at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the empirical distribution function of ``values`` at the points ``at``."""
    return np.searchsorted(np.sort(values), at, side="right") / len(values)
