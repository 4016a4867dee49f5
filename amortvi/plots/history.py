"""The history of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi.comparison.fits import FamilyFits
from amortvi.errors import NotFittedError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._axes import axes_or_new, color, matplotlib_module

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_history", "shown_range"]

_STYLES = {"elbo": ("training", "-"), "validation_elbo": ("validation", "--")}


def plot_history(fits: AmortizedVI | Mapping[str, AmortizedVI], *, ax: Axes | None = None) -> Axes:
    """Draw the ELBO of each epoch: that of training as a solid line, that of validation, if any, as a dashed one.

    The vertical axis may leave out the first epochs, which are often so far below the others that they would flatten them.

    Args:
        fits: a fitted estimator, or several by name, each in its own color. The fits of all seeds of a `FamilyFits` are
            drawn, in the color of their family.
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
    histories = [(name, vi.history) for name, vi in _named(fits)]
    for name, history in histories:
        if history.empty:
            raise NotFittedError(f"{name} has no epochs to plot: call fit first.")
    ax = axes_or_new(ax)
    names = list(dict.fromkeys(name for name, _ in histories))
    curves: dict[str, list[npt.NDArray[np.float64]]] = {}
    for name, history in histories:
        for column, (_, style) in _STYLES.items():
            if column in history:
                curve = history[column].to_numpy(dtype=float)
                curves.setdefault(column, []).append(curve)
                marker = "o" if len(history) == 1 else None
                ax.plot(history.index, curve, style, color=color(names.index(name)), marker=marker, linewidth=1.3)
    ax.set_ylim(*shown_range([curve for found in curves.values() for curve in found]))
    ax.set_xlabel("epoch")
    ax.set_ylabel("ELBO (nats per observation)")
    ax.xaxis.set_major_locator(matplotlib_module("matplotlib.ticker").MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _draw_legend(ax, names if isinstance(fits, Mapping) else [], list(curves) if len(curves) > 1 else [])
    return ax


def shown_range(curves: list[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the limits of an axis that shows the upper three quarters of each curve, and more if it is close to them.

    Args:
        curves: the values of each curve; values that are not finite are ignored.
    """
    lows, highs = [], []
    for curve in curves:
        values = curve[np.isfinite(curve)]
        if values.size:
            quartile, high = np.quantile(values, 0.25), values.max()
            # Three times the upper range contains all of a curve that rises evenly, but not a much lower start.
            lows.append(max(values.min(), quartile - 3 * (high - quartile)))
            highs.append(high)
    low, high = min(lows), max(highs)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _named(fits: AmortizedVI | Mapping[str, AmortizedVI]) -> list[tuple[str, AmortizedVI]]:
    """Return all fits with their names."""
    if isinstance(fits, AmortizedVI):
        return [("vi", fits)]
    if not isinstance(fits, Mapping) or not all(isinstance(vi, AmortizedVI) for vi in fits.values()):
        raise OptionError(f"fits must be an AmortizedVI or a mapping of names to them; got {type(fits).__name__}.")
    if not fits:
        raise OptionError("fits is empty.")
    return [(fit.family, fit.vi) for fit in fits.fits] if isinstance(fits, FamilyFits) else list(fits.items())


def _draw_legend(ax: Axes, names: list[str], columns: list[str]) -> None:
    """Explain the colors, by name, and the line styles, by column of the history."""
    line = matplotlib_module("matplotlib.lines").Line2D
    handles = [line([], [], color=color(position), label=name) for position, name in enumerate(names)]
    for label, style in (_STYLES[column] for column in columns):
        handles.append(line([], [], color="0.3" if names else color(0), linestyle=style, label=label))
    if handles:
        ax.legend(handles=handles, loc="lower right", frameon=False)
