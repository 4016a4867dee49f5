"""How far the importance weights of each observation are to be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.diagnostics.evidence.evidence import Evidence
from amortvi.plots._axes import axes_or_new, legend_above, point_area
from amortvi.plots._palette import color
from amortvi.plots._results import check_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_k_hat"]

_LANDMARKS = (0.5, 0.7, 1.0)
_FARTHEST = 2
_MARGIN = 0.08


def plot_k_hat(evidence: Evidence, *, sort: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the k-hat of each observation, with lines at what it means.

    The solid line is the threshold for the number of draws, which stands beside it; what is not below it has another color.
    The dashed ones are at 0.5, below which the weights have a variance, at 0.7, from which no practical number of draws is
    enough, and at 1, from which they have no mean. A k-hat beyond 2 or -2 is a triangle at the edge.

    Args:
        evidence: what `amortvi.evidence` returns.
        sort: whether to draw the observations in the order of their k-hats; by default in their own.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``evidence`` is something else.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_k_hat(avi.evidence(vi, x, seed=0), ax=Figure().subplots())
        >>> ax.get_ylabel()
        'k-hat'
    """
    check_result("evidence", evidence, Evidence, "amortvi.evidence")
    values, good = evidence.k_hat.numpy(), evidence.reliable.numpy()
    if sort:
        order = np.argsort(values, kind="stable")
        values, good = values[order], good[order]
    shown = values[np.abs(values) <= _FARTHEST]
    lowest, highest = min(0.0, shown.min(initial=0.0)), max(1.0, shown.max(initial=1.0))
    margin = _MARGIN * (highest - lowest)
    low, high = lowest - margin, highest + margin
    ax = axes_or_new(ax)
    for level in _LANDMARKS:
        ax.axhline(level, color="0.7", linestyle="--", linewidth=1, zorder=0)
    ax.axhline(evidence.threshold, color="0.2", linewidth=1.2, zorder=0)
    ax.annotate(
        f"{evidence.threshold:.2f}",
        (1, evidence.threshold),
        xytext=(4, 0),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
    )
    kinds: tuple[tuple[Any, str, str], ...] = (
        (good, color(0), f"to be trusted ({int(good.sum())})"),
        (~good, color(1), f"not to be trusted ({int((~good).sum())})"),
    )
    area = point_area(len(values))
    for chosen, shade, label in kinds:
        for inside, marker in (
            (values > highest, "^"),
            (values < lowest, "v"),
            ((lowest <= values) & (values <= highest), "o"),
        ):
            where = np.flatnonzero(chosen & inside)
            if marker == "o" or where.size:
                heights = np.clip(values[where], low, high)
                name = label if marker == "o" else None
                ax.scatter(where, heights, s=area, color=shade, marker=marker, linewidths=0, label=name, clip_on=False)
    ax.set_ylim(low, high)
    ax.set_yticks([level for level in (-2, -1.5, -1, -0.5, 0, *_LANDMARKS, 1.5, 2) if low <= level <= high])
    ax.set_xlabel("observations in the order of their k-hat" if sort else "observation")
    ax.set_ylabel("k-hat")
    legend_above(ax)
    return ax
