"""The posterior means of the observations in two latent dimensions, with posterior ellipses."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi._util.checks import nonnegative_int, probability
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.model import LatentSite
from amortvi.plots._arguments import posterior_of, to_array
from amortvi.plots._axes import Colors, axes_or_new, finish, label_colors, matplotlib_module, point_area
from amortvi.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_latents"]


def plot_latents(
    posterior: Posterior | AmortizedVI,
    x: Any = None,
    *,
    labels: Any = None,
    site: str | None = None,
    dims: tuple[int, int] | None = None,
    ellipses: int = 20,
    level: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Draw the posterior means in two latent dimensions, with posterior ellipses for some observations.

    Args:
        posterior: the posterior of ``N`` observations, or a fitted estimator.
        x: the observations, if an estimator is given.
        labels: one label per observation, ``(N,)``, for colors and shapes. Up to ten different integers or strings have a legend,
            other numbers a color bar.
        site: the latent site; by default the first one.
        dims: the positions of two elements of the flattened site: horizontal, vertical. By default those whose posterior means
            have the largest variances.
        ellipses: the number of observations with an ellipse, evenly spaced. A positive number requires an unconstrained site
            and a covariance in closed form; ellipses are exact for Gaussian posteriors.
        level: the probability inside an ellipse.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes; its patches are the ellipses.

    Raises:
        OptionError: ``posterior`` is something else; ``x`` came with a posterior; ``site`` is unknown; ``dims``, ``ellipses`` or
            ``level`` is out of range; or the site is constrained and ``ellipses`` is positive.
        DataError: ``labels`` are not one label per observation.
        FamilyError: ``ellipses`` is positive, but the covariance is not known in closed form.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> ax = plot_latents(vi.posterior(x), dims=(0, 1), ellipses=5, ax=Figure().subplots())
        >>> ax.get_xlabel(), len(ax.patches)
        ('z[0]', 5)
    """
    posterior = posterior_of(posterior, x)
    chosen, offset = _find_site(posterior, site)
    pair = None if dims is None else _check_dims(chosen, dims)
    count, level = nonnegative_int("ellipses", ellipses), probability("level", level)
    if count and not chosen.is_unconstrained:
        raise OptionError(
            f"ellipses must be 0 for site {chosen.name!r}: its covariance is known in closed form only before the transform to "
            f"its support, {chosen.support}."
        )
    means = to_array(posterior.mean[chosen.name]).reshape(-1, chosen.shape.numel())
    if pair is None:
        pair = _check_dims(chosen, np.sort(np.argsort(-means.var(axis=0), kind="stable")[:2]))
    means = means[:, pair]
    colored = label_colors(labels, len(means))
    rows = np.unique(np.linspace(0, len(means) - 1, count).round().astype(int))
    at = [offset + position for position in pair]
    covariances = (
        to_array(posterior.select(rows).covariance[:, at][:, :, at].double()) if count else np.empty((0, 2, 2))
    )
    ax = axes_or_new(ax)
    for marker, marked in colored.markers:
        shades = colored.colors[marked]
        horizontal, vertical = means[marked].T
        ax.scatter(horizontal, vertical, c=shades, s=point_area(len(means)), marker=marker, alpha=0.7, linewidths=0)
    colored.draw_key(ax)
    _draw_ellipses(ax, means[rows], covariances, level, colored.colors[rows])
    ax.set_xlabel(chosen.labels[pair[0]])
    ax.set_ylabel(chosen.labels[pair[1]])
    first, second = (chosen.labels[position] for position in pair)
    outlined = f", {100 * level:.3g}% ellipses of {len(rows)}" if count else ""
    finish(ax, f"Posterior means of {first} and {second}", f"{len(means)} observations{outlined}", grid="both")
    # Unequal units would distort the ellipses, whose shape shows the correlation.
    ax.set_aspect("equal", adjustable="datalim")
    ax.autoscale_view()
    return ax


def _find_site(posterior: Posterior, name: str | None) -> tuple[LatentSite, int]:
    """Return the site, and the position of its first coordinate in the unconstrained vector."""
    offset = 0
    for site in posterior.latents.sites:
        if name in (None, site.name):
            return site, offset
        offset += site.size
    raise OptionError(f"site must be one of {[site.name for site in posterior.latents.sites]}; got {name!r}.")


def _check_dims(site: LatentSite, dims: Sequence[int] | npt.NDArray[np.intp]) -> list[int]:
    """Return ``dims`` if they are two different positions in the flattened site."""
    size = site.shape.numel()
    try:
        first, second = (operator.index(dim) for dim in dims)
    except (TypeError, ValueError):
        first = second = -1
    if first == second or not (0 <= first < size and 0 <= second < size):
        raise OptionError(f"dims must be two different positions in site {site.name!r} of size {size}; got {dims!r}.")
    return [first, second]


def _draw_ellipses(
    ax: Axes, means: npt.NDArray[Any], covariances: npt.NDArray[np.float64], level: float, colors: Colors
) -> None:
    """Draw the ellipses of means ``(n, 2)`` and covariances ``(n, 2, 2)`` in colors ``(n, 4)``."""
    ellipse = matplotlib_module("matplotlib.patches").Ellipse
    quantile = -2 * math.log1p(-level)  # of the chi-squared distribution with two degrees of freedom
    variances, axes = np.linalg.eigh(covariances)
    diameters = 2 * np.sqrt(quantile * variances.clip(min=0))
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    for mean, (minor, major), angle, shade in zip(means, diameters, angles, colors, strict=True):
        # Filled ellipses would hide the points.
        ax.add_patch(ellipse(mean, major, minor, angle=angle, fill=False, edgecolor=shade, linewidth=1.2))
    # A dark edge marks the points to which the ellipses belong.
    ax.scatter(means[:, 0], means[:, 1], c=colors, s=25, edgecolors="black", linewidths=0.8, zorder=3)
