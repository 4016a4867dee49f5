"""The course of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import pandas as pd
from amortvi.comparison.fits import FamilyFits
from amortvi.errors import NotFittedError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._axes import axes_or_new, matplotlib_module
from amortvi.plots._palette import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_history"]

_STYLES = {"elbo": ("training", "-"), "validation_elbo": ("validation", "--")}


def plot_history(fits: AmortizedVI | Mapping[str, AmortizedVI], *, ax: Axes | None = None) -> Axes:
    """Draw the ELBO against the epoch: training as a solid line, validation, where there is any, as a dashed one.

    The first epochs lie far below the rest and would flatten it, so the ELBO axis may leave them out.

    Args:
        fits: a fitted estimator, or several by name, each in its own color; of a `FamilyFits` every seed is drawn.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        NotFittedError: a fit has no epoch yet.
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
    histories = [(name, _history(name, vi)) for name, vi in _named(fits)]
    ax = axes_or_new(ax)
    names = list(dict.fromkeys(name for name, _ in histories))
    several = isinstance(fits, Mapping)
    curves: list[npt.NDArray[np.float64]] = []
    for name, history in histories:
        for column, (_, style) in _STYLES.items():
            if column in history:
                curves.append(history[column].to_numpy(dtype=float))
                marker = "o" if len(history) == 1 else None
                ax.plot(history.index, curves[-1], style, color=color(names.index(name)), marker=marker, linewidth=1.3)
    ax.set_ylim(*_limits(curves))
    ax.set_xlabel("epoch")
    ax.set_ylabel("ELBO (nats per observation)")
    ax.xaxis.set_major_locator(matplotlib_module("matplotlib.ticker").MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    styles = {column: style for column, style in _STYLES.items() if any(column in history for _, history in histories)}
    _legend(ax, names if several else [], styles if len(styles) > 1 else {})
    return ax


def _named(fits: AmortizedVI | Mapping[str, AmortizedVI]) -> Iterator[tuple[str, AmortizedVI]]:
    if isinstance(fits, AmortizedVI):
        yield "vi", fits
    elif isinstance(fits, FamilyFits):
        yield from ((fit.family, fit.vi) for fit in fits.fits)
    elif isinstance(fits, Mapping) and all(isinstance(vi, AmortizedVI) for vi in fits.values()):
        yield from fits.items()
    else:
        raise OptionError(f"fits must be an AmortizedVI or a mapping of names to them; got {type(fits).__name__}.")
    if isinstance(fits, Mapping) and not fits:
        raise OptionError("fits holds no fit to plot.")


def _history(name: str, vi: AmortizedVI) -> pd.DataFrame:
    history = vi.history
    if history.empty:
        raise NotFittedError(f"{name} has no epoch to plot: call fit first.")
    return history


def _limits(curves: list[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return limits that hold every curve's upper three quarters, and of the rest what is not far below them."""
    lows, highs = [], []
    for curve in curves:
        values = curve[np.isfinite(curve)]
        if values.size:
            quartile, high = np.quantile(values, 0.25), values.max()
            # A curve that climbs evenly is shown whole; three times the upper range cuts only what would flatten it.
            lows.append(max(values.min(), quartile - 3 * (high - quartile)))
            highs.append(high)
    low, high = min(lows), max(highs)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _legend(ax: Axes, names: list[str], styles: dict[str, tuple[str, str]]) -> None:
    """Say what the colors are (one entry a name), then what the line styles are."""
    line = matplotlib_module("matplotlib.lines").Line2D
    handles = [line([], [], color=color(position), label=name) for position, name in enumerate(names)]
    styled = "0.3" if names else color(0)
    handles += [line([], [], color=styled, linestyle=style, label=label) for label, style in styles.values()]
    if handles:
        ax.legend(handles=handles, loc="lower right", frameon=False)
