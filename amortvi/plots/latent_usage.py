"""Which latents are used, and whether all the posteriors together make the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi.diagnostics.latents.latent_usage import LatentUsage
from amortvi.plots._axes import axes_or_new, matplotlib_module
from amortvi.plots._palette import color
from amortvi.plots._results import check_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_aggregate_posterior", "plot_latent_usage"]

_MOST_LABELS = 30
_WIDE = 0.8
_UNKNOWN = "no KL of its own"


def plot_latent_usage(usage: LatentUsage, *, ax: Axes | None = None) -> Axes:
    """Draw a bar for each latent dimension, the most used first: the mean KL of its marginal posterior to its prior.

    Active dimensions are colored, others gray. Dimensions with a joint prior, which have no KL of their own, are left out, and
    how many they are is said.

    Args:
        usage: what `amortvi.latent_usage` returns.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``usage`` is something else.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_latent_usage(avi.latent_usage(vi, x, seed=0), ax=Figure().subplots())
        >>> len(ax.patches)
        2
    """
    each = check_result("usage", usage, LatentUsage, "amortvi.latent_usage").each
    kl, active = each.kl.numpy(), each.active.numpy()
    known = np.flatnonzero(~np.isnan(kl))
    order = known[np.argsort(-kl[known], kind="stable")]
    ax = axes_or_new(ax)
    shades = np.where(active[order], color(0), "0.7")
    ax.bar(np.arange(len(order)), kl[order], width=_WIDE, color=shades.tolist())
    _name_dimensions(ax, [each.labels[position] for position in order])
    ax.set_ylabel("KL to the prior (nats)")
    patch = matplotlib_module("matplotlib.patches").Patch
    handles = [patch(color=color(0), label=f"active ({int(active.sum())} of {len(active)})")]
    if not active.all():
        handles.append(patch(color="0.7", label="not active"))
    if len(known) < len(kl):
        handles.append(patch(color="none", label=f"{len(kl) - len(known)} with a joint prior: {_UNKNOWN}"))
    ax.legend(handles=handles, frameon=False)
    return ax


def plot_aggregate_posterior(usage: LatentUsage, *, ax: Axes | None = None) -> Axes:
    """Draw the aggregate posterior of each latent dimension beside its prior, in units of the prior.

    A thick line holds the middle half, a thin one 95 %, a point is the median; gray bands are the same of the prior. Where they
    do not agree, draws from the prior are not like the latents of the data.

    Args:
        usage: what `amortvi.latent_usage` returns.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``usage`` is something else.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_aggregate_posterior(avi.latent_usage(vi, x, seed=0), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['z[0]', 'z[1]']
    """
    each = check_result("usage", usage, LatentUsage, "amortvi.latent_usage").each
    centre, scale = each.prior_mean.numpy(), each.prior_variance.sqrt().numpy()
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    mine, prior = (
        np.quantile((draws.double().numpy() - centre) / scale, levels, axis=0)
        for draws in (usage.aggregate, usage.prior)
    )
    ax = axes_or_new(ax)
    at = np.arange(len(each.labels))
    for low, high, shade in ((0, 4, "0.92"), (1, 3, "0.82")):
        ax.bar(at, prior[high] - prior[low], bottom=prior[low], width=_WIDE, color=shade, zorder=0)
    ax.vlines(at, mine[0], mine[4], color=color(0), linewidth=1)
    ax.vlines(at, mine[1], mine[3], color=color(0), linewidth=4)
    ax.plot(at, mine[2], "o", color="white", markeredgecolor=color(0), markersize=5, linestyle="none")
    _name_dimensions(ax, list(each.labels))
    ax.set_ylabel("latent (prior standard deviations)")
    line, patch = matplotlib_module("matplotlib.lines").Line2D, matplotlib_module("matplotlib.patches").Patch
    handles = [
        line([], [], color=color(0), linewidth=3, label="aggregate posterior"),
        patch(color="0.82", label="prior"),
    ]
    ax.legend(handles=handles, frameon=False, loc="upper right")
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.2 * (top - bottom))  # room for the legend
    return ax


def _name_dimensions(ax: Axes, labels: list[str]) -> None:
    """Name the dimensions on the horizontal axis; of many, only some."""
    shown: npt.NDArray[np.intp] = np.arange(0, len(labels), max(1, -(-len(labels) // _MOST_LABELS)))
    names = [labels[position] for position in shown]
    ax.set_xticks(shown, names, rotation=90 if len("".join(names)) > 2 * _MOST_LABELS else 0)
    ax.set_xlim(-0.6, max(len(labels), 1) - 0.4)
