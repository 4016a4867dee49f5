"""Images above their reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi._util.checks import positive_int
from amortvi.errors import DataError
from amortvi.plots._arrays import image_stack
from amortvi.plots._mosaic import GAP, draw_mosaic, mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_reconstructions"]

_BLOCK_GAP = 4 * GAP


def plot_reconstructions(
    images: Any,
    reconstructions: Any,
    *,
    side: int | None = None,
    columns: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw images in a grid, each above its reconstruction, with one gray scale for all.

    Args:
        images: ``(N, side * side)`` or ``(N, H, W)``.
        reconstructions: of the same, in either shape.
        side: the side of a flattened image; by default the square root of its size.
        columns: images in a row.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        DataError: the images are none, no numbers, not finite, or of another number of dimensions; or reconstructions
            and images differ in number or size.
        OptionError: ``columns`` is not a positive integer, or flattened images are not squares of this side.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> x = torch.rand(5, 64)
        >>> ax = plot_reconstructions(x, x.round(), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['original', 'reconstruction']
    """
    above, below = image_stack("images", images, side), image_stack("reconstructions", reconstructions, side)
    if above.shape != below.shape:
        raise DataError(
            f"reconstructions must be as many and as large as images, {above.shape}; got shape {below.shape}."
        )
    across = min(positive_int("columns", columns), len(above))
    blocks = -(-len(above) // across)
    count, height, width = above.shape
    padded = np.full((2, blocks * across, height, width), np.nan)
    padded[:, :count] = above, below
    # A block is a row of images and the row of their reconstructions, set off from the next block.
    parts = [mosaic(block.reshape(-1, height, width), across) for block in np.split(padded, blocks, axis=1)]
    step = parts[0].shape[0] + _BLOCK_GAP
    picture = np.full((blocks * step - _BLOCK_GAP, parts[0].shape[1]), np.nan)
    for position, part in enumerate(parts):
        picture[position * step : (position + 1) * step - _BLOCK_GAP] = part
    ax = draw_mosaic(picture, ax)
    centers = (height - 1) / 2 + np.add.outer(step * np.arange(blocks), [0, height + GAP]).ravel()
    ax.set_yticks(centers, ["original", "reconstruction"] * blocks)
    ax.tick_params(axis="y", length=0)
    return ax
