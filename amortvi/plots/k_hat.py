"""How reliable the importance weights of each observation are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.evidence import evidence as compute_evidence
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import result_of
from amortvi.plots._axes import axes_or_new, finish, legend_inside, point_area, write_beside
from amortvi.plots.palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_k_hat"]

_LANDMARKS = (0.5, 0.7, 1.0)
_FARTHEST = 2
_MARGIN = 0.08
_RELIABLE, _UNRELIABLE = PALETTE[5], PALETTE[1]
"""Light and dark, so that they can be told apart without colors."""


def plot_k_hat(
    evidence: Evidence | AmortizedVI, x: Any = None, *, sort: bool = False, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw the k-hat of each observation, with lines at its thresholds.

    The solid line is the threshold for the number of draws; observations with a k-hat below it are reliable, unless the
    check on simulated data says otherwise. Dashed lines are
    at 0.5, below which the weights have finite variance; at 0.7, above which no practical number of draws is enough; and at 1,
    above which the weights have no mean. A k-hat above 2 or below -2 is shown as a triangle at the edge.

    Args:
        evidence: the result of `amortvi.evidence`, or a fitted estimator.
        x: the observations, if an estimator is given.
        sort: whether to sort the observations by k-hat.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.evidence`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``evidence`` is something else; or ``x`` or options came with a evidence.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> ax = plot_k_hat(avi.evidence(vi, x, seed=0), ax=Figure().subplots())
        >>> ax.get_ylabel()
        'k-hat'
    """
    evidence = result_of("evidence", evidence, x, Evidence, compute_evidence, options)
    order = evidence.k_hat.argsort(stable=True) if sort else slice(None)
    values, reliable = evidence.k_hat[order].numpy(), evidence.reliable[order].numpy()
    shown = values[np.abs(values) <= _FARTHEST]
    lowest, highest = min(0.0, shown.min(initial=0.0)), max(1.0, shown.max(initial=1.0))
    margin = _MARGIN * (highest - lowest)
    low, high = lowest - margin, highest + margin
    ax = axes_or_new(ax)
    for level in _LANDMARKS:
        ax.axhline(level, color="0.7", linestyle="--", linewidth=1, zorder=0)
    ax.axhline(evidence.threshold, color="0.2", linewidth=1.2, zorder=0)
    write_beside(ax, evidence.threshold, f"threshold\n{evidence.threshold:.2f}")
    inside = (lowest <= values) & (values <= highest)
    markers = {"o": inside, "^": values > highest, "v": values < lowest}
    area = point_area(len(values))
    for label, chosen, shade in (("reliable", reliable, _RELIABLE), ("unreliable", ~reliable, _UNRELIABLE)):
        for marker, where in markers.items():
            at = np.flatnonzero(chosen & where)
            name = f"{label} ({chosen.sum()})" if marker == "o" else None
            heights = values[at].clip(low, high)
            ax.scatter(at, heights, s=area, color=shade, marker=marker, linewidths=0, label=name, clip_on=False)
    ax.set_ylim(low, high)
    ax.set_yticks([level for level in (-2, -1.5, -1, -0.5, 0, *_LANDMARKS, 1.5, 2) if low <= level <= high])
    ax.set_xlabel("observations, sorted by k-hat" if sort else "observation")
    ax.set_ylabel("k-hat")
    legend_inside(ax)
    detail = f"{len(values)} observations, {evidence.draws} draws each"
    finish(ax, "Reliability of the importance weights", detail, grid="x")
    return ax
