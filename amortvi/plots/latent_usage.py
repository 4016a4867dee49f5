"""The usage of the latents, and the aggregate posterior compared with the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi.diagnostics.latents.latent_usage import LatentUsage, latent_usage
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import result_of
from amortvi.plots._axes import axes_or_new, finish, legend_inside, matplotlib_module, rotation
from amortvi.plots.palette import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_aggregate_posterior", "plot_latent_usage"]

_MOST_LABELS = 30
_WIDE = 0.8


def plot_latent_usage(
    usage: LatentUsage | AmortizedVI, x: Any = None, *, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw one bar per latent coordinate, the most used first: the mean KL from its marginal posterior to its prior.

    The bars of active coordinates are colored, the others gray. Coordinates with a joint prior, whose marginal KL is unknown,
    have no bar; the legend counts them.

    Args:
        usage: the result of `amortvi.latent_usage`, or a fitted estimator.
        x: the observations, if an estimator is given.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.latent_usage`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``usage`` is something else; or ``x`` or options came with a result.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(x, seed=0)
        >>> ax = plot_latent_usage(avi.latent_usage(vi, x, seed=0), ax=Figure().subplots())
        >>> len(ax.patches)
        2
    """
    usage = result_of("usage", usage, x, LatentUsage, latent_usage, options)
    used = usage.coordinates
    kl, active = used.kl.numpy(), used.active.numpy()
    known = np.flatnonzero(~np.isnan(kl))
    order = known[np.argsort(-kl[known], kind="stable")]
    ax = axes_or_new(ax)
    shades = np.where(active[order], color(0), "0.7")
    ax.bar(np.arange(len(order)), kl[order], width=_WIDE, color=shades.tolist())
    _label_coordinates(ax, [used.labels[position] for position in order])
    ax.set_ylabel("mean KL to the prior (nats)")
    detail = f"{active.sum()} of {len(active)} active; {_over(usage)}"
    finish(ax, "Information in each latent", detail, grid="y")
    patch = matplotlib_module("matplotlib.patches").Patch
    handles = [patch(color=color(0), label="active")]
    if not active.all():
        handles.append(patch(color="0.7", label="not active"))
    if len(known) < len(kl):
        handles.append(patch(color="none", label=f"KL unknown, joint prior ({len(kl) - len(known)})"))
    if len(handles) > 1:
        legend_inside(ax, handles=handles)
    return ax


def plot_aggregate_posterior(
    usage: LatentUsage | AmortizedVI, x: Any = None, *, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw the aggregate posterior of each latent coordinate over its prior, in standard deviations of the prior.

    A point is the median, a thick line the central 50% interval, a thin line the central 95% interval; gray bands are the same
    intervals of the prior. If the two differ, draws from the prior do not resemble the latents of the data.

    Args:
        usage: the result of `amortvi.latent_usage`, or a fitted estimator.
        x: the observations, if an estimator is given.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.latent_usage`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``usage`` is something else; or ``x`` or options came with a result.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(x, seed=0)
        >>> ax = plot_aggregate_posterior(avi.latent_usage(vi, x, seed=0), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['z[0]', 'z[1]']
    """
    usage = result_of("usage", usage, x, LatentUsage, latent_usage, options)
    used = usage.coordinates
    center, scale = used.prior_mean.numpy(), used.prior_variance.sqrt().numpy()
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    aggregate, prior = (
        np.quantile((draws.double().numpy() - center) / scale, levels, axis=0)
        for draws in (usage.aggregate, usage.prior)
    )
    ax = axes_or_new(ax)
    at = np.arange(len(used.labels))
    for low, high, shade, width in ((0, 4, "0.92", 1), (1, 3, "0.82", 4)):
        labels = ("prior", "aggregate posterior") if low else ("", "")
        ax.bar(at, prior[high] - prior[low], bottom=prior[low], width=_WIDE, color=shade, zorder=0, label=labels[0])
        ax.vlines(at, aggregate[low], aggregate[high], color=color(0), linewidth=width, label=labels[1])
    ax.plot(at, aggregate[2], "o", color="white", markeredgecolor=color(0), markersize=5, linestyle="none")
    _label_coordinates(ax, list(used.labels))
    ax.set_ylabel("latent (prior sd)")
    finish(ax, "Aggregate posterior over the prior", f"50% and 95% intervals; {_over(usage)}", grid="y")
    legend_inside(ax)
    return ax


def _over(usage: LatentUsage) -> str:
    return f"{usage.observations} observations"


def _label_coordinates(ax: Axes, labels: list[str]) -> None:
    """Label the coordinates on the horizontal axis; if there are many, only some."""
    shown: npt.NDArray[np.intp] = np.arange(0, len(labels), max(1, -(-len(labels) // _MOST_LABELS)))
    names = [labels[position] for position in shown]
    ax.set_xticks(shown, names, rotation=rotation(ax, names))
    ax.set_xlim(-0.6, max(len(labels), 1) - 0.4)
