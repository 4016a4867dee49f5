"""Images in a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amortvi._util.checks import positive_int
from amortvi.plots._arrays import image_stack
from amortvi.plots._mosaic import draw_mosaic, mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_images"]


def plot_images(images: Any, *, side: int | None = None, columns: int = 10, ax: Axes | None = None) -> Axes:
    """Draw images in a grid, row by row, as one picture with one gray scale: prior samples, say, or a decoded grid.

    Args:
        images: ``(N, side * side)`` or ``(N, H, W)``.
        side: the side of a flattened image; by default the square root of its size.
        columns: images in a row.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        DataError: the images are none, no numbers, not finite, or of another number of dimensions.
        OptionError: ``columns`` is not a positive integer, or flattened images are not squares of this side.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> ax = plot_images(torch.rand(25, 64), ax=Figure().subplots())
        >>> ax.images[0].get_array().shape  # three rows and ten columns of 8 by 8 pixels with gaps of one
        (26, 89)
    """
    stack = image_stack("images", images, side)
    return draw_mosaic(mosaic(stack, min(positive_int("columns", columns), len(stack))), ax)
