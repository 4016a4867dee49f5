"""The correlations between the latents of one observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amortvi.plots._arguments import check_result, position_of, to_array
from amortvi.plots._axes import axes_or_new, draw_color_bar
from amortvi.posterior import Posterior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_correlation"]

_LARGEST_WITH_VALUES = 10
_MOST_TICKS = 25
_MOST_CHARACTERS = 40
"""The largest total length of tick labels that fit side by side below the matrix."""


def plot_correlation(posterior: Posterior, observation: int = 0, *, ax: Axes | None = None) -> Axes:
    """Draw the posterior correlation matrix of one observation's unconstrained latent vector.

    Colors always range from -1 to 1 with white at 0, so that figures can be compared. For up to ten coordinates the values are
    shown as text.

    Args:
        posterior: the posterior of ``N`` observations.
        observation: the position of the observation; a negative one counts from the end.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``posterior`` is something else, or there is no such observation.
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
    check_result("posterior", posterior, Posterior, "vi.posterior(x)")
    position = position_of("observation", observation, len(posterior))
    correlation = to_array(posterior.select(position).correlation[0].double())
    ax = axes_or_new(ax)
    picture = ax.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    draw_color_bar(ax, picture, "correlation")
    labels = posterior.unconstrained_labels
    shown = range(0, len(labels), -(-len(labels) // _MOST_TICKS))
    names = [labels[i] for i in shown]
    ax.set_xticks(shown, names, rotation=90 if len("".join(names)) > _MOST_CHARACTERS else 0)
    ax.set_yticks(shown, names)
    ax.set_title(f"observation {position}")
    if len(labels) <= _LARGEST_WITH_VALUES:
        for (row, column), value in np.ndenumerate(correlation):
            shade = "white" if abs(value) > 0.6 else "black"
            ax.text(column, row, f"{value:z.2f}", ha="center", va="center", color=shade, fontsize="small")
    return ax
