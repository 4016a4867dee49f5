"""An approximate posterior compared with draws from the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi._util.random import random_state
from amortvi.diagnostics.reference import Reference, unconstrained_draws
from amortvi.errors import OptionError
from amortvi.plots._arguments import check_result, position_of, to_array
from amortvi.plots._axes import axes_or_new, color, legend_inside
from amortvi.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_reference"]

_MOST_POINTS = 1000
_BINS = 40
_LEVEL = 0.9
_NAMES = ("NUTS", "approximate posterior")


def plot_reference(
    reference: Reference,
    posterior: Posterior,
    observation: int = 0,
    coordinates: Sequence[int] = (0, 1),
    *,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the approximate and the exact posterior of one observation, in one or two unconstrained coordinates.

    With two coordinates, points are draws, and each ellipse contains 90% of a Gaussian with the mean and covariance of the
    draws. With one coordinate, the draws are shown as histograms.

    Args:
        reference: draws from the exact posterior of ``N`` observations.
        posterior: the approximate posterior of the same observations.
        observation: the position of the observation; a negative one counts from the end.
        coordinates: the positions of one or two coordinates of the unconstrained latent vector; ignored if there is only one.
        seed: the seed of the draws from ``posterior``; the caller's random state is left untouched.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``reference`` or ``posterior`` is something else, or there is no such observation or coordinate.
        DataError: the posterior is of other observations.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import warnings, torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> with warnings.catch_warnings(action="ignore"):  # these are too few draws
        ...     nuts = avi.reference(vi, x[:1], chains=2, draws=20, warmup=20, seed=0, progress=False)
        >>> plot_reference(nuts, vi.posterior(x[:1]), ax=Figure().subplots()).get_ylabel()
        'z[1]'
    """
    check_result("reference", reference, Reference, "amortvi.reference").check_same(posterior)
    _, _, observations, dim = reference.vector.shape
    position = position_of("observation", observation, observations)
    chosen = [position_of("coordinates", each, dim, "coordinates") for each in (coordinates if dim > 1 else [0])]
    if len(chosen) not in (1, 2):
        raise OptionError(f"coordinates must be one or two positions; got {len(chosen)}.")
    exact = reference.vector[:, :, position].flatten(0, 1)[:, chosen]
    with random_state(seed, posterior.device):
        approximate = unconstrained_draws(posterior.select(position), len(exact))[:, 0, chosen]
    samples = {name: to_array(draws.double()) for name, draws in zip(_NAMES, (exact, approximate), strict=True)}
    labels = [reference.latents.labels[each] for each in chosen]
    ax = axes_or_new(ax)
    if len(chosen) == 1:
        _draw_histograms(ax, samples)
    else:
        _draw_clouds(ax, samples)
    ax.set_xlabel(labels[0])
    ax.set_ylabel("density" if len(chosen) == 1 else labels[1])
    ax.set_title(f"observation {position}")
    legend_inside(ax)
    return ax


def _draw_histograms(ax: Axes, samples: Mapping[str, npt.NDArray[np.float64]]) -> None:
    edges = np.histogram_bin_edges(np.concatenate([*samples.values()]), bins=_BINS).tolist()
    for position, (name, sample) in enumerate(samples.items()):
        ax.hist(sample[:, 0], edges, density=True, histtype="step", color=color(position), label=name)


def _draw_clouds(ax: Axes, samples: Mapping[str, npt.NDArray[np.float64]]) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    # The quantile of the chi-squared distribution with two degrees of freedom.
    circle = np.sqrt(-2 * np.log1p(-_LEVEL)) * np.stack([np.cos(angle), np.sin(angle)])
    for position, (name, sample) in enumerate(samples.items()):
        shown = sample[:: -(-len(sample) // _MOST_POINTS)]
        ax.plot(*shown.T, ".", color=color(position), markersize=2, alpha=0.4, rasterized=True)
        # Unlike a Cholesky factor, this square root also exists for draws without spread.
        variance, axes = np.linalg.eigh(np.cov(sample.T))
        ellipse = sample.mean(0)[:, None] + axes @ (np.sqrt(variance.clip(min=0))[:, None] * circle)
        ax.plot(*ellipse, color=color(position), label=name)
