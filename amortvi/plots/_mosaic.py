"""Many images as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from amortvi.plots._axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GAP", "draw_mosaic", "mosaic"]

GAP = 1
"""Empty pixels between two images."""
_WIDTH = 6.4
_HEIGHTS = (1.2, 9.6)


def mosaic(images: npt.NDArray[np.float64], columns: int) -> npt.NDArray[np.float64]:
    """Lay images in a grid, row by row.

    Args:
        images: ``(N, H, W)``.
        columns: images in a row.

    Returns:
        ``(rows * (H + 1) - 1, columns * (W + 1) - 1)``; NaN between the images and in empty places.

    Example:
        >>> mosaic(np.ones((3, 1, 2)), columns=2)
        array([[ 1.,  1., nan,  1.,  1.],
               [nan, nan, nan, nan, nan],
               [ 1.,  1., nan, nan, nan]])
    """
    count, height, width = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + GAP, width + GAP), np.nan)
    cells[:count, :height, :width] = images
    grid = cells.reshape(rows, columns, height + GAP, width + GAP).swapaxes(1, 2)
    return grid.reshape(rows * (height + GAP), columns * (width + GAP))[:-GAP, :-GAP]


def draw_mosaic(picture: npt.NDArray[np.float64], ax: Axes | None) -> Axes:
    """Draw a mosaic in gray, from its lowest value (black) to its highest (white), without frame and ticks.

    Args:
        picture: ``(height, width)``; NaN is left empty.
        ax: where to draw; ``None`` makes a figure of fitting height.
    """
    height = float(np.clip(_WIDTH * picture.shape[0] / picture.shape[1], *_HEIGHTS))
    ax = axes_or_new(ax, (_WIDTH, height))
    # Every pixel is drawn as it is: smoothing would blur images into the gaps and invent detail.
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return ax
