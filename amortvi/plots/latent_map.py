r"""Where the observations lie in latent space.

The ellipse of an observation holds the posterior probability ``level`` of two coordinates: for a covariance with
eigenvalues :math:`\lambda_i` its semi-axes are :math:`\sqrt{\lambda_i r}`, where :math:`r = -2 \log(1 - level)` is
the quantile of the chi-square distribution with two degrees of freedom.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi.errors import OptionError
from amortvi.model.latents import LatentSite
from amortvi.plots._arrays import to_array
from amortvi.plots._axes import axes_or_new, matplotlib_module, point_area
from amortvi.plots._labels import Categories, Scale, read_labels
from amortvi.plots._palette import color
from amortvi.plots._posteriors import check_posterior
from amortvi.posterior.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_latent_map"]


def plot_latent_map(
    posterior: Posterior,
    labels: Any = None,
    *,
    site: str | None = None,
    dims: tuple[int, int] = (0, 1),
    ellipses: int = 20,
    level: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Draw the posterior means in two latent dimensions, with posterior ellipses for some observations.

    Args:
        posterior: of ``N`` observations.
        labels: one an observation, ``(N,)``, for colors: up to ten integers or strings make a legend, other numbers a
            color bar.
        site: the latent site; by default the first one.
        dims: the two positions in the site, flattened: horizontal, vertical.
        ellipses: how many observations, evenly spread over all, have an ellipse. The site must be unconstrained, and
            the covariance known in closed form; ``0`` draws none.
        level: the probability inside an ellipse.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes; means are its first collection, ellipses its patches.

    Raises:
        OptionError: ``site`` is unknown; ``dims``, ``ellipses`` or ``level`` is out of range; or ellipses are asked for
            on a constrained site.
        DataError: ``labels`` are not one an observation.
        FamilyError: ellipses are asked for of a family without a covariance in closed form.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_latent_map(vi.posterior(x), ellipses=5, ax=Figure().subplots())
        >>> ax.get_xlabel(), len(ax.patches)
        ('z[0]', 5)
    """
    check_posterior(posterior)
    chosen, offset = _site(posterior, site)
    pair = _pair(chosen, dims)
    _check_ellipses(chosen, ellipses, level)
    means = to_array(posterior.mean[chosen.name]).reshape(-1, chosen.shape.numel())[:, pair]
    key = None if labels is None else read_labels(labels, len(means))
    rows = np.unique(np.linspace(0, len(means) - 1, ellipses).round().astype(int))
    covariances = _covariances(posterior, rows, [offset + position for position in pair])
    ax = axes_or_new(ax)
    colors = _draw_means(ax, means, key)
    _draw_ellipses(ax, means[rows], covariances, level, colors[rows])
    ax.set_xlabel(_name(chosen, pair[0]))
    ax.set_ylabel(_name(chosen, pair[1]))
    # One unit is as long in both directions, so that an ellipse shows the correlation as it is.
    ax.set_aspect("equal", adjustable="datalim")
    ax.autoscale_view()
    return ax


def _site(posterior: Posterior, name: str | None) -> tuple[LatentSite, int]:
    """Return the site, and where it starts in the unconstrained vector."""
    offset = 0
    for site in posterior.latents.sites:
        if name is None or site.name == name:
            return site, offset
        offset += site.size
    raise OptionError(f"site must be one of {[site.name for site in posterior.latents.sites]}; got {name!r}.")


def _pair(site: LatentSite, dims: tuple[int, int]) -> list[int]:
    """Return ``dims`` if they are two different positions in the flattened site."""
    size = site.shape.numel()
    try:
        first, second = (operator.index(dim) for dim in dims)
    except (TypeError, ValueError):
        first = second = -1
    if first == second or not (0 <= first < size and 0 <= second < size):
        raise OptionError(f"dims must be two different positions in site {site.name!r} of size {size}; got {dims!r}.")
    return [first, second]


def _check_ellipses(site: LatentSite, ellipses: int, level: float) -> None:
    if isinstance(ellipses, bool) or not isinstance(ellipses, int) or ellipses < 0:
        raise OptionError(f"ellipses must be an integer of at least zero; got {ellipses!r}.")
    if not 0 < level < 1:
        raise OptionError(f"level must be a probability strictly between 0 and 1; got {level}.")
    if ellipses and not site.is_unconstrained:
        raise OptionError(
            f"ellipses must be 0 for site {site.name!r}: the posterior is Gaussian before the transform to its support "
            f"{site.support}, not on it."
        )


def _name(site: LatentSite, position: int) -> str:
    """Return the label of one number of the site, as `LatentVector.labels` writes it."""
    return f"{site.name}[{', '.join(str(int(i)) for i in np.unravel_index(position, tuple(site.shape)))}]"


def _covariances(posterior: Posterior, rows: npt.NDArray[np.intp], coordinates: list[int]) -> npt.NDArray[np.float64]:
    """Return the covariances ``(len(rows), 2, 2)`` of two unconstrained coordinates, of some observations."""
    if not len(rows):
        return np.empty((0, 2, 2))
    covariances = posterior.select(rows.tolist()).covariance[:, coordinates][:, :, coordinates]
    return to_array(covariances.double())


def _draw_means(ax: Axes, means: npt.NDArray[Any], key: Categories | Scale | None) -> npt.NDArray[np.float64]:
    """Draw the means ``(N, 2)`` and the key to their colors; return the colors, ``(N, 4)``."""
    if key is None:
        colors = np.tile(matplotlib_module("matplotlib.colors").to_rgba(color(0)), (len(means), 1))
    else:
        colors = key.colors()
        key.draw_key(ax)
    ax.scatter(means[:, 0], means[:, 1], c=colors, s=point_area(len(means)), alpha=0.7, linewidths=0)
    return colors


def _draw_ellipses(
    ax: Axes,
    means: npt.NDArray[Any],
    covariances: npt.NDArray[np.float64],
    level: float,
    colors: npt.NDArray[np.float64],
) -> None:
    """Draw the ellipse of each mean ``(n, 2)``, with its covariance ``(n, 2, 2)``, in its color ``(n, 4)``."""
    ellipse = matplotlib_module("matplotlib.patches").Ellipse
    quantile = -2 * math.log1p(-level)
    variances, axes = np.linalg.eigh(covariances)
    diameters = 2 * np.sqrt(quantile * variances.clip(min=0))
    angles = np.degrees(np.arctan2(axes[:, 1, 1], axes[:, 0, 1]))
    for mean, (minor, major), angle, shade in zip(means, diameters, angles, colors, strict=True):
        # Not filled, since twenty fillings hide what lies under them.
        ax.add_patch(ellipse(mean, major, minor, angle=angle, fill=False, edgecolor=shade, linewidth=1.2))
    # A dark rim tells which points the ellipses belong to.
    ax.scatter(means[:, 0], means[:, 1], c=colors, s=25, edgecolors="black", linewidths=0.8, zorder=3)
