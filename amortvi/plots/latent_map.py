r"""Where the observations lie in latent space.

The ellipse of an observation holds the posterior probability ``level`` of two coordinates: for covariance :math:`S` with
eigenvalues :math:`\lambda_i` its semi-axes are :math:`\sqrt{\lambda_i r}`, where :math:`r = -2 \log(1 - level)` is the
quantile of the chi-square distribution with two degrees of freedom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi.errors import DataError, OptionError
from amortvi.latents import LatentSite
from amortvi.plots._arrays import to_array
from amortvi.plots._axes import axes_or_new, matplotlib_module
from amortvi.plots._covariances import check_posterior, covariances_of
from amortvi.plots._palette import PALETTE, color
from amortvi.posterior import Posterior

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
        ellipses: how many observations, evenly spread over all, have an ellipse. The site must be unconstrained, and the
            covariance known in closed form; ``0`` draws none.
        level: the probability inside an ellipse.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes; means are its collections, ellipses its patches.

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
    _check_options(chosen, dims, ellipses, level)
    means = to_array(posterior.mean[chosen.name]).reshape(-1, chosen.shape.numel())[:, list(dims)]
    categories = None if labels is None else _labels(labels, len(means))
    ax = axes_or_new(ax)
    colors = _draw_means(ax, means, categories)
    if ellipses:
        rows = np.unique(np.linspace(0, len(means) - 1, ellipses).round().astype(int)).tolist()
        coordinates = [offset + dim for dim in dims]
        covariances = covariances_of(posterior, rows)[:, coordinates][:, :, coordinates]
        _draw_ellipses(ax, means[rows], covariances, level, [colors[row] for row in rows])
    names = _names(chosen)
    ax.set_xlabel(names[dims[0]])
    ax.set_ylabel(names[dims[1]])
    ax.set_aspect("equal", adjustable="datalim")
    ax.autoscale_view()
    return ax
