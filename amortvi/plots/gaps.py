"""What each fit loses, and to what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.errors import OptionError
from amortvi.plots._axes import axes_or_new, legend_above
from amortvi.plots._palette import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_gaps"]

_WIDTH = 6.4
_PARTS = {"approximation": "approximation gap (family)", "amortization": "amortization gap (encoder)"}


def plot_gaps(gaps: Gaps | Mapping[str, Gaps], *, ax: Axes | None = None) -> Axes:
    """Draw a bar a fit: the mean loss to the family, and behind it that to the encoder, where the evidence is known.

    Args:
        gaps: what `amortvi.gaps` returns, or several by name.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes; the error bars are one standard error of the mean of the whole loss.

    Raises:
        OptionError: ``gaps`` is something else, or empty.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=5, progress=False, seed=0)
        >>> ax = plot_gaps(avi.gaps(vi, x), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['diagonal']
    """
    named = {gaps.family: gaps} if isinstance(gaps, Gaps) else gaps
    if not isinstance(named, Mapping) or not named or not all(isinstance(one, Gaps) for one in named.values()):
        raise OptionError(
            f"gaps must be what amortvi.gaps returns, or a dict of such by name; got {type(gaps).__name__}."
        )
    ax = axes_or_new(ax, (_WIDTH, 1.6 + 0.4 * len(named)))
    positions = np.arange(len(named))
    summaries = [one.summary() for one in named.values()]
    means = {part: np.array([summary.loc[f"{part}_gap", "mean"] for summary in summaries]) for part in _PARTS}
    # A part may be a little below zero, by Monte Carlo error; the other begins at zero all the same.
    starts = {"approximation": np.zeros(len(named)), "amortization": np.maximum(means["approximation"], 0)}
    for place, (part, label) in enumerate(_PARTS.items()):
        ax.barh(positions, means[part], left=starts[part], height=0.6, color=color(place), label=label)
    whole, errors = (np.array([summary.loc["inference_gap", of] for summary in summaries]) for of in ("mean", "se"))
    # One observation has no standard error.
    ax.errorbar(whole, positions, xerr=np.nan_to_num(errors), fmt="none", color="0.2", capsize=4)
    ax.axvline(0, color="0.7", linewidth=1, zorder=0)
    ax.set_yticks(positions, list(named))
    ax.set_ylim(len(named) - 0.5, -0.5)
    ax.set_xlabel("Loss against the evidence ± 1 SE\n(nats per observation)")
    legend_above(ax)
    return ax
