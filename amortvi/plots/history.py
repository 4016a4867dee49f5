"""The history of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi.comparison.fits import list_fits
from amortvi.errors import NotFittedError
from amortvi.inference import AmortizedVI
from amortvi.plots._axes import axes_or_new, color, matplotlib_module

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_history", "shown_range"]

_STYLES = {"elbo": ("training", "-"), "validation_elbo": ("validation", "--")}


def plot_history(fits: AmortizedVI | Mapping[str, AmortizedVI], *, ax: Axes | None = None) -> Axes:
    """Draw the ELBO of each epoch: the training ELBO as a solid line and the validation ELBO, if any, as a dashed line.

    The vertical axis may leave out the first epochs, whose ELBO is often so low that the rest of the curve would look flat.

    Args:
        fits: a fitted estimator, several by name, each in its own color, or the result of `fit_families`, where the fits of all
            seeds have the color of their family.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        NotFittedError: a fit has no epochs.
        OptionError: ``fits`` is something else, or empty.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full")
        >>> vi = vi.fit(model.simulate(20, seed=0), epochs=3, progress=False, seed=0)
        >>> ax = plot_history(vi, ax=Figure().subplots())
        >>> ax.get_xlabel(), len(ax.lines[0].get_xdata())
        ('epoch', 3)
    """
    histories = [(fit.family, fit.vi.history) for fit in list_fits(fits, allow_single=True)]
    for name, history in histories:
        if history.empty:
            raise NotFittedError(f"{name!r} has no epochs to plot: call fit first.")
    ax = axes_or_new(ax)
    names = list(dict.fromkeys(name for name, _ in histories))
    columns = [column for column in _STYLES if any(column in history for _, history in histories)]
    curves = []
    for name, history in histories:
        for column in history.columns.intersection(columns):
            curves.append(history[column].to_numpy(dtype=float))
            style, marker = _STYLES[column][1], "o" if len(history) == 1 else None
            ax.plot(history.index, curves[-1], style, color=color(names.index(name)), marker=marker, linewidth=1.3)
    ax.set_ylim(*shown_range(curves))
    ax.set_xlabel("epoch")
    ax.set_ylabel("ELBO (nats per observation)")
    ax.xaxis.set_major_locator(matplotlib_module("matplotlib.ticker").MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    line, named = matplotlib_module("matplotlib.lines").Line2D, isinstance(fits, Mapping)
    handles = [line([], [], color=color(place), label=name) for place, name in enumerate(names if named else [])]
    for label, style in (_STYLES[column] for column in (columns if len(columns) > 1 else [])):
        handles.append(line([], [], color="0.3" if named else color(0), linestyle=style, label=label))
    if handles:
        ax.legend(handles=handles, loc="lower right", frameon=False)
    return ax


def shown_range(curves: list[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the limits of an axis that shows the upper three quarters of each curve, and lower values if they are close."""
    lows, highs = [], []
    for curve in curves:
        values = curve[np.isfinite(curve)]
        if values.size:
            quartile, high = np.quantile(values, 0.25), values.max()
            # Three times the range of the upper three quarters contains an evenly rising curve, but not a much lower start.
            lows.append(max(values.min(), quartile - 3 * (high - quartile)))
            highs.append(high)
    low, high = min(lows), max(highs)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
