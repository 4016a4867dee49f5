"""The correlations between the latents of one observation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import position_of, posterior_of, to_array
from amortvi.plots._axes import axes_or_new, draw_color_bar, finish, rotation, width_in_points
from amortvi.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_correlation"]

_SMALLEST_WITH_VALUES = 22
"""The width in points of a cell that has room for its value."""
_MOST_TICKS = 25


def plot_correlation(
    posterior: Posterior | AmortizedVI, x: Any = None, *, observation: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw the posterior correlation matrix of one observation's unconstrained latent vector.

    Colors always range from -1 to 1 with white at 0, so that figures can be compared. Where the cells are large
    enough, the values are shown as text.

    Args:
        posterior: the posterior of ``N`` observations, or a fitted estimator.
        x: the observations, if an estimator is given.
        observation: the position of the observation; a negative one counts from the end.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``posterior`` is something else, ``x`` came with a posterior, or there is no such observation.
        FamilyError: the covariance is not known in closed form.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> ax = plot_correlation(vi.posterior(x), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['z[0]', 'z[1]']
    """
    posterior = posterior_of(posterior, x)
    position = position_of("observation", observation, len(posterior))
    correlation = to_array(posterior.select(position).correlation[0].double())
    ax = axes_or_new(ax)
    picture = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    draw_color_bar(ax, picture, "correlation")
    labels = posterior.unconstrained_labels
    shown = range(0, len(labels), -(-len(labels) // _MOST_TICKS))
    names = [labels[i] for i in shown]
    ax.set_xticks(shown, names, rotation=rotation(ax, names))
    ax.set_yticks(shown, names)
    if width_in_points(ax) / len(labels) >= _SMALLEST_WITH_VALUES:
        for (row, column), value in np.ndenumerate(correlation):
            shade = "white" if abs(value) > 0.6 else "black"
            ax.text(column, row, f"{value:z.2f}", ha="center", va="center", color=shade, fontsize="x-small")
    finish(ax, "Posterior correlations", f"unconstrained latents of observation {position}", grid=None)
    return ax
