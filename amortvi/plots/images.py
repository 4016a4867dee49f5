"""Images in a grid, with or without their reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from amortvi._util.checks import optional, positive_int
from amortvi.errors import DataError, OptionError
from amortvi.plots._arguments import to_array
from amortvi.plots._axes import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_images", "plot_reconstructions"]

Pixels: TypeAlias = npt.NDArray[np.float64]

_GAP = 1
"""Empty pixels between two images."""
_BLOCK_GAP = 4
"""Empty pixels between the reconstructions of one row of images and the next row of images."""
_WIDTH = 6.4
_HEIGHTS = (1.2, 9.6)


def plot_images(images: Any, *, side: int | None = None, columns: int = 10, ax: Axes | None = None) -> Axes:
    """Draw images in a grid, row by row, on one gray scale; for example, samples from the prior.

    Args:
        images: ``(N, side * side)`` or ``(N, H, W)``.
        side: the side of a flattened image; by default the square root of its size.
        columns: the number of images per row.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        DataError: ``images`` are empty, are not finite real numbers, or have another number of dimensions.
        OptionError: ``columns`` is not a positive integer, or flattened images are not squares of this side.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> ax = plot_images(torch.rand(25, 64), ax=Figure().subplots())
        >>> ax.images[0].get_array().shape  # three rows of ten images of 8 by 8 pixels, one pixel apart
        (26, 89)
    """
    return _draw(_mosaic(_rows(_image_stack("images", images, side), columns)), ax)


def plot_reconstructions(
    images: Any, reconstructions: Any, *, side: int | None = None, columns: int = 10, ax: Axes | None = None
) -> Axes:
    """Draw images in a grid, each above its reconstruction, on one gray scale.

    Args:
        images: ``(N, side * side)`` or ``(N, H, W)``.
        reconstructions: the reconstructions of these images, in either shape.
        side: the side of a flattened image; by default the square root of its size.
        columns: the number of images per row.
        ax: the Axes to draw on; by default those of a new figure.

    Returns:
        The Axes.

    Raises:
        DataError: ``images`` or ``reconstructions`` are empty, are not finite real numbers, or have another number of
            dimensions; or they differ in number or size.
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
    above, below = _image_stack("images", images, side), _image_stack("reconstructions", reconstructions, side)
    if above.shape != below.shape:
        raise DataError(f"reconstructions must have the shape of images, {above.shape}; got {below.shape}.")
    pairs = np.stack([_rows(above, columns), _rows(below, columns)], axis=1)
    blocks = [np.pad(_mosaic(pair), ((0, _BLOCK_GAP), (0, 0)), constant_values=np.nan) for pair in pairs]
    ax = _draw(np.concatenate(blocks)[:-_BLOCK_GAP], ax)
    height = above.shape[1]
    centers = (height - 1) / 2 + np.add.outer(len(blocks[0]) * np.arange(len(blocks)), [0, height + _GAP]).ravel()
    ax.set_yticks(centers, ["original", "reconstruction"] * len(blocks))
    ax.tick_params(axis="y", length=0)
    return ax


def _image_stack(name: str, images: Any, side: int | None) -> Pixels:
    """Return images, ``(N, side * side)`` or ``(N, H, W)``, as ``(N, H, W)``."""
    try:
        array = to_array(images)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name} cannot be converted to an array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be an array of real numbers; got dtype {array.dtype}.")
    array = array.astype(np.float64)
    if array.ndim not in (2, 3) or array.size == 0:
        raise DataError(f"{name} must have shape (N, side * side) or (N, H, W) with N > 0; got {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has {np.sum(~np.isfinite(array))} values that are not finite.")
    length = optional(positive_int, "side", side)
    if array.ndim == 3:
        if length is not None and array.shape[1:] != (length, length):
            raise OptionError(f"side={side} does not match {name} of {array.shape[1]} by {array.shape[2]} pixels.")
        return array
    pixels = array.shape[1]
    length = length or round(pixels**0.5)
    if length * length != pixels:
        raise OptionError(
            f"side must be the square root of the number of pixels; got {side}, but {name} have {pixels} pixels each. Pass "
            f"images that are not square as (N, H, W)."
        )
    return array.reshape(-1, length, length)


def _rows(images: Pixels, columns: int) -> Pixels:
    """Arrange images ``(N, H, W)`` in rows ``(R, C, H, W)`` of at most ``columns``; the last row is filled with NaN."""
    count = len(images)
    across = min(positive_int("columns", columns), count)
    filled = np.pad(images, ((0, -count % across), (0, 0), (0, 0)), constant_values=np.nan)
    return filled.reshape(-1, across, *images.shape[1:])


def _mosaic(rows: Pixels) -> Pixels:
    """Join rows of images ``(R, C, H, W)`` into one picture with gaps of NaN, ``(R * (H + 1) - 1, C * (W + 1) - 1)``."""
    cells = np.pad(rows, ((0, 0), (0, 0), (0, _GAP), (0, _GAP)), constant_values=np.nan)
    count, across, height, width = cells.shape
    return cells.swapaxes(1, 2).reshape(count * height, across * width)[:-_GAP, :-_GAP]


def _draw(picture: Pixels, ax: Axes | None) -> Axes:
    """Draw a picture from its lowest value (black) to its highest (white), without frame and ticks; NaN is left empty."""
    height = float(np.clip(_WIDTH * picture.shape[0] / picture.shape[1], *_HEIGHTS))
    ax = axes_or_new(ax, (_WIDTH, height))
    # Interpolation would blur images into the gaps.
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    return ax
