"""Gaps to the evidence, split by cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.diagnostics.gaps.gaps import gaps as compute_gaps
from amortvi.errors import OptionError
from amortvi.families import family_label
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import result_of
from amortvi.plots._axes import INTERVAL, WIDTH, axes_or_new, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_gaps"]

# Dark and light, so that they can be told apart without colors.
_PARTS = {"approximation": ("family", "#3B4A6B"), "amortization": ("encoder", "#F2A65A")}


def plot_gaps(
    gaps: Gaps | AmortizedVI | Mapping[str, Gaps] | Mapping[str, AmortizedVI],
    x: Any = None,
    *,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw one bar per fit: the mean approximation gap followed by the mean amortization gap.

    Means are over the observations whose evidence is reliable. The number is the mean inference gap, the sum of both, and the
    line at the end of the bar is its 95% interval: plus or minus 1.96 standard errors over observations.

    Args:
        gaps: the result of `amortvi.gaps` or a fitted estimator, or several of them by name.
        x: the observations, if estimators are given.
        ax: the Axes to draw on; by default those of a new figure.
        options: if estimators are given, options of `amortvi.gaps`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``gaps`` is something else, or empty; or ``x`` or options came with results.
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
    named = _by_name(gaps, x, options)
    ax = axes_or_new(ax, (WIDTH, 1.7 + 0.42 * len(named)))
    positions = np.arange(len(named))
    summaries = [each.summary() for each in named.values()]
    means = {part: np.array([summary.loc[f"{part}_gap", "mean"] for summary in summaries]) for part in _PARTS}
    # Monte Carlo error can make the first gap slightly negative; the second bar then starts at zero.
    starts = {"approximation": np.zeros(len(named)), "amortization": np.maximum(means["approximation"], 0)}
    for part, (label, shade) in _PARTS.items():
        ax.barh(positions, means[part], left=starts[part], height=0.55, color=shade, label=label)
    total, errors = (np.array([summary.loc["inference_gap", name] for summary in summaries]) for name in ("mean", "se"))
    # A single observation has no standard error.
    half = INTERVAL * np.nan_to_num(errors)
    ax.errorbar(total, positions, xerr=half, fmt="none", color="0.1", elinewidth=1.5)
    for place, (mean, end) in enumerate(zip(total, total + half, strict=True)):
        text = "unknown" if np.isnan(mean) else f"{mean:z.2f}".replace("-", "\N{MINUS SIGN}")
        ax.annotate(
            text, (np.nan_to_num(end), place), xytext=(5, 0), textcoords="offset points", va="center", fontsize="small"
        )
    ax.axvline(0, color="0.6", linewidth=1)
    ax.margins(x=0.12)
    ax.set_xlim(left=min(0.0, *means["approximation"], *means["amortization"]))
    ax.set_yticks(positions, list(named))
    ax.set_ylim(len(named) + 0.3, -0.5)  # the room below the bars is for the legend
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("gap to the evidence (nats per observation)")
    ax.legend(loc="lower right", ncols=2, frameon=False, fontsize="small", borderaxespad=0.1, columnspacing=1.2)
    finish(ax, "Inference gap by cause", _detail(list(named.values())), grid="x")
    return ax


def _by_name(found: Any, x: Any, options: dict[str, Any]) -> dict[str, Gaps]:
    if isinstance(found, AmortizedVI):
        found = {family_label(found.family): found}
    elif isinstance(found, Gaps):
        found = {found.family: found}
    if not isinstance(found, Mapping) or not found:
        raise OptionError(
            f"gaps must be a result of amortvi.gaps or a fitted estimator, or a dict of them by name; "
            f"got {type(found).__name__}."
        )
    return {name: result_of("gaps", each, x, Gaps, compute_gaps, options) for name, each in found.items()}


def _detail(found: list[Gaps]) -> str:
    """Return the level of the intervals and the number of observations that the means are over."""
    shares = {f"{int(each.reliable.sum())} of {len(each.reliable)}" for each in found}
    over = f"{shares.pop()} reliable" if len(shares) == 1 else "unreliable left out"
    return f"means, 95% intervals; {over}"
