"""An approximate posterior beside the exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi._util.random import random_state
from amortvi.diagnostics.reference.reference import Reference, unconstrained_draws
from amortvi.errors import OptionError
from amortvi.plots._arrays import to_array
from amortvi.plots._axes import axes_or_new
from amortvi.plots._palette import color
from amortvi.plots._posteriors import position_of
from amortvi.posterior.posterior import Posterior

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
    """Draw the approximate posterior of one observation beside the exact one, in one or two unconstrained latents.

    Of two latents draws are points, with the ellipse that holds 90% of a Gaussian of their mean and covariance. Of one there are
    two histograms.

    Args:
        reference: draws from the exact posterior of ``N`` observations.
        posterior: the approximate posterior of the same.
        observation: its position; a negative one counts from the end.
        coordinates: positions of one or two numbers of the unconstrained latent vector; where it has but one, that.
        seed: of the approximate draws; leaves the caller's random state as it was.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: there is no such observation or coordinate.
        DataError: the posterior is of other observations.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import warnings, torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> with warnings.catch_warnings(action="ignore"):  # it warns that these are too few draws
        ...     nuts = avi.reference(vi, x[:1], chains=2, draws=20, warmup=20, seed=0, progress=False)
        >>> plot_reference(nuts, vi.posterior(x[:1]), ax=Figure().subplots()).get_ylabel()
        'z[1]'
    """
    reference.check_same(posterior)
    _, _, observations, dim = reference.vector.shape
    position = position_of("observation", observation, observations)
    chosen = [position_of("coordinates", each, dim, "latents") for each in (coordinates if dim > 1 else [0])]
    if len(chosen) not in (1, 2):
        raise OptionError(f"coordinates must be one or two positions; got {len(chosen)}.")
    exact = reference.vector[:, :, position].flatten(0, 1)[:, chosen]
    with random_state(seed, posterior.device):
        drawn = unconstrained_draws(posterior.select(position), len(exact))[:, 0, chosen]
    labels = [reference.latents.labels[each] for each in chosen]
    ax = axes_or_new(ax)
    draw = _histograms if len(chosen) == 1 else _clouds
    draw(ax, {name: to_array(value.double()) for name, value in zip(_NAMES, (exact, drawn), strict=True)})
    ax.set_xlabel(labels[0])
    ax.set_ylabel("density" if len(chosen) == 1 else labels[1])
    ax.set_title(f"observation {position}")
    ax.legend()
    return ax


def _histograms(ax: Axes, samples: Mapping[str, npt.NDArray[np.float64]]) -> None:
    edges = np.histogram_bin_edges(np.concatenate([*samples.values()]), bins=_BINS).tolist()
    for number, (name, sample) in enumerate(samples.items()):
        ax.hist(sample[:, 0], edges, density=True, histtype="step", color=color(number), label=name)
    ax.margins(y=0.3)  # room for the legend


def _clouds(ax: Axes, samples: Mapping[str, npt.NDArray[np.float64]]) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    # The quantile of the chi-square distribution with two degrees of freedom.
    circle = np.sqrt(-2 * np.log1p(-_LEVEL)) * np.stack([np.cos(angle), np.sin(angle)])
    for number, (name, sample) in enumerate(samples.items()):
        shown = sample[:: -(-len(sample) // _MOST_POINTS)]
        ax.plot(*shown.T, ".", color=color(number), markersize=2, alpha=0.4, rasterized=True)
        # The square root by eigenvectors is there for draws without any spread too.
        variance, axes = np.linalg.eigh(np.cov(sample.T))
        ellipse = sample.mean(0)[:, None] + axes @ (np.sqrt(variance.clip(min=0))[:, None] * circle)
        ax.plot(*ellipse, color=color(number), label=name)
