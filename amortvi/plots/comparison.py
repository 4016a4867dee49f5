"""Scores of fitted families, with error bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from amortvi._util.lazy import pandas as pd
from amortvi.errors import OptionError
from amortvi.plots._axes import axes_or_new, color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_comparison"]

_AXIS_LABELS = {
    "elbo": "ELBO ± 1 SE\n(nats per observation)",
    "difference": "difference to the best ± 1 SE\n(nats per observation)",
}
_WIDTH = 6.4


def plot_comparison(
    table: pd.DataFrame, *, column: Literal["elbo", "difference"] = "difference", ax: Axes | None = None
) -> Axes:
    """Draw one row per family, the best on top, with error bars of one standard error.

    Args:
        table: the result of `amortvi.compare`.
        column: ``"difference"``, the difference to the best family with the standard error of the paired difference; or
            ``"elbo"``, whose standard errors include the variation between observations and are too large to judge differences.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``column`` is something else, or ``table`` is empty or lacks the column or its standard errors.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> encoder, families = avi.encoders.MLP(2, []), ["diagonal", "full"]
        >>> fits = avi.fit_families(model, encoder, families, x, epochs=1, progress=False)
        >>> ax = plot_comparison(avi.compare(fits, x), ax=Figure().subplots())
        >>> len(ax.get_yticklabels())
        2
    """
    if column not in _AXIS_LABELS:
        raise OptionError(f"column must be one of {list(_AXIS_LABELS)}; got {column!r}.")
    missing = {column, f"{column}_se"} - set(getattr(table, "columns", ()))
    if missing or len(table) == 0:
        lack = f"has no column {sorted(missing)}" if missing else "has no rows"
        raise OptionError(f"table must be the result of amortvi.compare; this {type(table).__name__} {lack}.")
    ax = axes_or_new(ax, (_WIDTH, 1.4 + 0.4 * len(table)))
    positions = np.arange(len(table))
    values, errors = (table[name].to_numpy(dtype=float) for name in (column, f"{column}_se"))
    if column == "difference":
        ax.axvline(0, color="0.7", linewidth=1, zorder=0)
    ax.errorbar(values, positions, xerr=errors, fmt="o", color=color(0), capsize=4)
    ax.set_yticks(positions, [str(family) for family in table.index])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlabel(_AXIS_LABELS[column])
    return ax
