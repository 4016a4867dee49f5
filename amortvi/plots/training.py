"""The history of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import pandas as pd
from amortvi.comparison.fits import list_fits
from amortvi.errors import NotFittedError
from amortvi.inference import AmortizedVI
from amortvi.plots._axes import axes_or_new, finish, label_ends, matplotlib_module
from amortvi.plots.palette import family_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_training", "shown_range"]

_NAMES = {"elbo": "training", "validation_elbo": "validation"}

_WINDOWS = 20
"""A curve is smoothed over this fraction of the epochs, if several would hide each other."""


def plot_training(fits: AmortizedVI | Mapping[str, AmortizedVI], *, ax: Axes | None = None) -> Axes:
    """Draw the ELBO of each epoch: of one fit for training and validation data, of several fits for validation data.

    If a fit has no validation data, all curves are those of the training data. Long curves of several fits are smoothed; thin
    lines are single epochs. A dot marks the end of a fit. The vertical axis may leave out the first epochs, whose ELBO is often
    so low that the rest of the curve would look flat.

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
        >>> ax = plot_training(vi, ax=Figure().subplots())
        >>> ax.get_xlabel(), len(ax.lines[0].get_xdata())
        ('epoch', 3)
    """
    histories = [(fit.family, fit.vi.history) for fit in list_fits(fits, allow_single=True)]
    for name, history in histories:
        if history.empty:
            raise NotFittedError(f"{name!r} has no epochs to plot: call fit first.")
    ax = axes_or_new(ax)
    columns = [column for column in _NAMES if all(column in history for _, history in histories)]
    if isinstance(fits, AmortizedVI):
        (name, history), shade = histories[0], family_colors([histories[0][0]])[histories[0][0]]
        curves = [(_NAMES[column], history[column], "0.6" if column != columns[-1] else shade) for column in columns]
        title, detail = f"Training of {name}", f"{len(history)} epochs, {fits.status}"
    else:
        colors = family_colors([name for name, _ in histories])
        window = min(len(history) for _, history in histories) // _WINDOWS
        curves = [(name, _smooth(history[columns[-1]], window), colors[name]) for name, history in histories]
        for name, history in histories if window > 1 else []:
            ax.plot(history.index, history[columns[-1]], color=colors[name], linewidth=0.6, alpha=0.35)
        title = f"{_NAMES[columns[-1]].capitalize()} ELBO of {len(histories)} fits"
        detail = f"thick: means of {window} epochs" if window > 1 else ""
    # Epochs without validation data, or with a bound of minus infinity, are left out.
    curves = [(name, curve[np.isfinite(curve)], shade) for name, curve, shade in curves]
    for _, curve, shade in curves:
        ax.plot(curve.index, curve, color=shade, linewidth=1.4)
        ax.plot(curve.index[-1:], curve.iloc[-1:], "o", color=shade, markersize=4, clip_on=False)
    ax.set_ylim(*shown_range([curve.to_numpy(dtype=float) for _, curve, _ in curves]))
    ends: dict[tuple[str, str], list[float]] = {}
    for name, curve, shade in curves:
        ends.setdefault((name, shade), []).extend(curve.iloc[-1:])
    label_ends(ax, [(float(np.mean(heights)), name, shade) for (name, shade), heights in ends.items() if heights])
    ax.set_xlim(left=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("ELBO (nats per observation)")
    ax.xaxis.set_major_locator(
        matplotlib_module("matplotlib.ticker").MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10])
    )
    finish(ax, title, detail, grid="y")
    return ax


def _smooth(curve: pd.Series[float], window: int) -> pd.Series[float]:
    """Return the mean over ``window`` epochs around each epoch."""
    return curve.rolling(window, center=True, min_periods=1).mean() if window > 1 else curve


def shown_range(curves: list[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Return the limits of an axis that shows the upper three quarters of each curve, and lower values if they are close."""
    lows, highs = [], []
    for curve in curves:
        values = curve[np.isfinite(curve)]
        if values.size:
            quartile, high = np.quantile(values, 0.25), values.max()
            # Half the range of the upper three quarters contains the lowest quarter of an evenly rising curve.
            lows.append(max(values.min(), quartile - 0.5 * (high - quartile)))
            highs.append(high)
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
