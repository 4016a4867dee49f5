"""Gaps to the evidence, split by cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.errors import OptionError
from amortvi.plots._axes import axes_or_new, color, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_gaps"]

_WIDTH = 6.4
_PARTS = {"approximation": "approximation gap (family)", "amortization": "amortization gap (encoder)"}


def plot_gaps(gaps: Gaps | Mapping[str, Gaps], *, ax: Axes | None = None) -> Axes:
    """Draw one bar per fit: the mean approximation gap followed by the mean amortization gap.

    Means are over the observations whose evidence is reliable; error bars are one standard error of the mean inference gap.

    Args:
        gaps: the result of `amortvi.gaps`, or several results by name.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``gaps`` is something else, or empty.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(x, seed=0)
        >>> ax = plot_gaps(avi.gaps(vi, x), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['diagonal']
    """
    named = {gaps.family: gaps} if isinstance(gaps, Gaps) else gaps
    if not isinstance(named, Mapping) or not named or not all(isinstance(each, Gaps) for each in named.values()):
        raise OptionError(
            f"gaps must be a result of amortvi.gaps, or a dict of them by name; got {type(gaps).__name__}."
        )
    ax = axes_or_new(ax, (_WIDTH, 1.6 + 0.4 * len(named)))
    positions = np.arange(len(named))
    summaries = [each.summary() for each in named.values()]
    means = {part: np.array([summary.loc[f"{part}_gap", "mean"] for summary in summaries]) for part in _PARTS}
    # Monte Carlo error can make the first gap slightly negative; the second bar then starts at zero.
    starts = {"approximation": np.zeros(len(named)), "amortization": np.maximum(means["approximation"], 0)}
    for place, (part, label) in enumerate(_PARTS.items()):
        ax.barh(positions, means[part], left=starts[part], height=0.6, color=color(place), label=label)
    total, errors = (np.array([summary.loc["inference_gap", name] for summary in summaries]) for name in ("mean", "se"))
    # A single observation has no standard error.
    ax.errorbar(total, positions, xerr=np.nan_to_num(errors), fmt="none", color="0.2", capsize=4)
    ax.axvline(0, color="0.7", linewidth=1, zorder=0)
    ax.set_yticks(positions, list(named))
    ax.set_ylim(len(named) - 0.5, -0.5)
    ax.set_xlabel("mean gap to the evidence ± 1 SE\n(nats per observation)")
    legend_above(ax)
    return ax
