"""An approximate posterior compared with draws from the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi._util.keyword_options import make_options
from amortvi._util.random import random_state
from amortvi.diagnostics.reference import Reference, unconstrained_draws
from amortvi.diagnostics.reference import reference as compute_reference
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import position_of, result_of, to_array
from amortvi.plots._axes import axes_or_new, finish, legend_inside
from amortvi.plots.palette import color
from amortvi.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_reference"]

_MOST_POINTS = 1000
_BINS = 40
_LEVEL = 0.9
_NAMES = ("NUTS", "approximate posterior")


def plot_reference(
    reference: Reference | AmortizedVI,
    posterior: Posterior | Any,
    observation: int = 0,
    coordinates: Sequence[int] = (0, 1),
    *,
    seed: int = 0,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw the approximate and the exact posterior of one observation, in one or two unconstrained coordinates.

    With two coordinates, points are draws, and each ellipse contains 90% of a Gaussian with the mean and covariance of the
    draws. With one coordinate, the draws are shown as histograms.

    Args:
        reference: draws from the exact posterior of ``N`` observations, or a fitted estimator, for which NUTS then draws from
            that of the one observation that is shown.
        posterior: the approximate posterior of the same observations; with an estimator, its posterior or the observations.
        observation: the position of the observation; a negative one counts from the end.
        coordinates: the positions of one or two coordinates of the unconstrained latent vector; ignored if there is only one.
        seed: the seed of the draws; the caller's random state is left untouched.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.reference`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``reference`` or ``posterior`` is something else, or there is no such observation or coordinate; or options
            came with a result.
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
    shown = 0
    if isinstance(reference, AmortizedVI):
        posterior = posterior if isinstance(posterior, Posterior) else reference.posterior(posterior)
        position = position_of("observation", observation, len(posterior))
        posterior = posterior.select(position)
        reference = make_options(compute_reference, reference, posterior=posterior, seed=seed, **options)
    else:
        result_of("reference", reference, None, Reference, compute_reference, options).check_same(posterior)
        position = position_of("observation", observation, reference.vector.shape[2])
        shown = position
    dim = reference.vector.shape[-1]
    chosen = [position_of("coordinates", each, dim, "coordinates") for each in (coordinates if dim > 1 else [0])]
    if len(chosen) not in (1, 2):
        raise OptionError(f"coordinates must be one or two positions; got {len(chosen)}.")
    exact = reference.vector[:, :, shown].flatten(0, 1)[:, chosen]
    with random_state(seed, posterior.device):
        approximate = unconstrained_draws(posterior.select(shown), len(exact))[:, 0, chosen]
    samples = {name: to_array(draws.double()) for name, draws in zip(_NAMES, (exact, approximate), strict=True)}
    labels = [reference.latents.labels[each] for each in chosen]
    ax = axes_or_new(ax)
    if len(chosen) == 1:
        _draw_histograms(ax, samples)
    else:
        _draw_clouds(ax, samples)
    ax.set_xlabel(labels[0])
    ax.set_ylabel("density" if len(chosen) == 1 else labels[1])
    legend_inside(ax, ncols=1)
    drawn = "histograms" if len(chosen) == 1 else f"{100 * _LEVEL:.0f}% ellipses"
    finish(ax, f"Posterior of observation {position}", f"{drawn} of {len(exact)} draws each", grid="both")
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
