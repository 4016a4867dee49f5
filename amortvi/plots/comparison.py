"""Scores of fitted families, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from amortvi._util.keyword_options import make_options
from amortvi._util.lazy import pandas as pd
from amortvi.comparison import FamilyFits, compare
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._axes import INTERVAL, WIDTH, axes_or_new, finish, write_beside
from amortvi.plots.palette import family_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_comparison"]

_SCORES = {"elbo": "ELBO", "evidence": "log evidence"}
_TIE = "within noise of the best"


def plot_comparison(
    table: pd.DataFrame | FamilyFits | Mapping[str, AmortizedVI],
    x: Any = None,
    *,
    column: Literal["elbo", "difference"] = "difference",
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw one row per family, the best on top: the mean score with its 95% interval.

    The number on the right is the mean. A family within noise of the best has a hollow point. An interval is the mean plus or
    minus 1.96 standard errors.

    Args:
        table: the result of `amortvi.compare`; or the result of `fit_families` or fitted estimators by name, which are then
            compared.
        x: the held-out observations, if fits are given.
        column: ``"difference"``, the difference to the best family with the standard error of the paired difference; or
            ``"elbo"``, whose standard errors include the variation between observations and are too large to judge differences.
        ax: the Axes to draw on; by default those of a new figure.
        options: if fits are given, options of `amortvi.compare`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``column`` is something else, or ``table`` is empty or lacks the column or its standard errors; or ``x`` or
            options came with a table.
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
    if column not in ("elbo", "difference"):
        raise OptionError(f"column must be one of ['elbo', 'difference']; got {column!r}.")
    if isinstance(table, Mapping):
        table = make_options(compare, table, x, **options)
    elif options or x is not None:
        raise OptionError("table is a result already, so x and options would be ignored; pass them to amortvi.compare.")
    missing = {column, f"{column}_se"} - set(getattr(table, "columns", ()))
    if missing or len(table) == 0:
        lack = f"has no column {sorted(missing)}" if missing else "has no rows"
        raise OptionError(f"table must be the result of amortvi.compare; this {type(table).__name__} {lack}.")
    ax = axes_or_new(ax, (WIDTH, 1.4 + 0.36 * len(table)))
    names = [str(family) for family in table.index]
    colors = family_colors(names)
    values, errors = (table[name].to_numpy(dtype=float) for name in (column, f"{column}_se"))
    verdicts = table["verdict"] if "verdict" in table else [""] * len(table)
    for place, (name, value, error, verdict) in enumerate(zip(names, values, errors, verdicts, strict=True)):
        inside = "white" if column == "difference" and verdict.startswith(_TIE) else colors[name]
        ax.errorbar(value, place, xerr=INTERVAL * error, fmt="none", ecolor=colors[name], elinewidth=2)
        ax.plot(value, place, "o", color=colors[name], markerfacecolor=inside, markersize=7, markeredgewidth=1.5)
        write_beside(ax, place, _number(value, error, column).replace("-", "\N{MINUS SIGN}"))
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=0.08)
    ax.tick_params(axis="y", length=0)
    score = _SCORES["elbo" if column == "elbo" or "score" not in table else table["score"].iloc[0]]
    if column == "difference":
        ax.axvline(0, color="0.6", linewidth=1, zorder=0)
        ax.set_xlabel("difference (nats per observation)")
        finish(ax, f"Mean {score}, difference to the best", _detail(list(verdicts)), grid="x")
    else:
        ax.set_xlabel("ELBO (nats per observation)")
        finish(ax, "Mean ELBO of each family", "95% intervals over observations", grid="x")
    return ax


def _number(value: float, error: float, column: str) -> str:
    """Return the text to the right of a row."""
    if not math.isfinite(value):
        return "unknown"
    if column == "elbo":
        return f"{value:.2f}"
    # Only the best family differs from itself by nothing, with certainty.
    return "best" if value == error == 0 else f"{value:z.2f}"


def _detail(verdicts: list[str]) -> str:
    detail = "paired 95% intervals"
    if any(verdict.startswith(_TIE) for verdict in verdicts):
        detail += "; hollow: within noise"
    if any(verdict.startswith("unreliable") for verdict in verdicts):
        detail += "\nunreliable evidence: k-hat is too high"
    return detail
