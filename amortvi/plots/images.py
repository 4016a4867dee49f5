"""Images in a grid, with or without their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from amortvi._util.checks import positive_int
from amortvi.errors import DataError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import to_array
from amortvi.plots._axes import WIDTH, axes_or_new, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_images", "plot_reconstructions"]

Pixels: TypeAlias = npt.NDArray[np.float64]

_GAP = 1
"""Empty pixels between two images."""
_BLOCK_GAP = 4
"""Empty pixels between the reconstructions of one row of images and the next row of images."""
_HEIGHTS = (1.0, 9.6)
_TITLE = 0.5
"""The height of the title in inches."""
_SHAPES = "(N, H, W), (N, 1, H, W), (N, 3, H, W) or (N, pixels)"


def plot_images(images: Any, *, shape: Sequence[int] | None = None, columns: int = 10, ax: Axes | None = None) -> Axes:
    """Draw images in a grid, row by row; for example, draws from the prior.

    All gray images share one scale, from the lowest value (black) to the highest (white). The values of color images are between
    0 and 1, or integers from 0 to 255 of type ``uint8``.

    Args:
        images: ``(N, H, W)``, ``(N, 1, H, W)``, in color ``(N, 3, H, W)``, or flattened ``(N, pixels)``.
        shape: the shape of one flattened image, such as ``(H, W)`` or ``(3, H, W)``; by default it is square and gray.
        columns: the number of images per row.
        ax: the Axes to draw on; by default those of a new figure of the proportions of the grid.

    Returns:
        The Axes.

    Raises:
        DataError: ``images`` are empty, are not finite real numbers, or have another number of dimensions; or the values of color
            images are out of range.
        OptionError: ``columns`` is not a positive integer, or flattened images do not have this shape.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> ax = plot_images(torch.rand(25, 1, 8, 8), ax=Figure().subplots())
        >>> ax.images[0].get_array().shape  # three rows of ten images of 8 by 8 pixels, one pixel apart
        (26, 89)
    """
    stack = _image_stack("images", images, shape)
    ax = _draw(_mosaic(_rows(stack, columns)), ax)
    finish(ax, f"{len(stack)} image{'s' * (len(stack) != 1)}", _scale(stack), grid=None)
    return ax


def plot_reconstructions(
    images: Any,
    reconstructions: Any,
    *,
    shape: Sequence[int] | None = None,
    columns: int = 10,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw images in a grid, each above its reconstruction.

    Args:
        images: the images, as for `plot_images`; or a fitted estimator of a model with one observed site. The reconstructions are
            then the means of its posterior predictive distribution.
        reconstructions: the reconstructions of these images, in any of the shapes; with an estimator, the observations.
        shape: the shape of one flattened image, such as ``(H, W)`` or ``(3, H, W)``; by default it is square and gray.
        columns: the number of images per row.
        ax: the Axes to draw on; by default those of a new figure of the proportions of the grid.
        options: with an estimator, ``draws`` and ``seed`` of `AmortizedVI.predict`.

    Returns:
        The Axes.

    Raises:
        DataError: ``images`` or ``reconstructions`` are empty, are not finite real numbers, or have another number of
            dimensions; or they differ in number or size; or the values of color images are out of range.
        OptionError: ``columns`` is not a positive integer, or flattened images do not have this shape; the model has several
            observed sites, or options came with images.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch
        >>> from matplotlib.figure import Figure
        >>> x = torch.rand(5, 64)
        >>> ax = plot_reconstructions(x, x.round(), ax=Figure().subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['original', 'reconstruction']
    """
    title = "Images and their reconstructions"
    if isinstance(images, AmortizedVI):
        title = "Images and posterior predictive means"
        images, reconstructions = reconstructions, _predictive_means(images, reconstructions, options)
    elif options:
        raise OptionError(f"{', '.join(options)} would be ignored: options are for an estimator; got images.")
    above, below = (
        _image_stack(name, values, shape) for name, values in (("images", images), ("reconstructions", reconstructions))
    )
    if above.shape != below.shape:
        raise DataError(f"reconstructions must have the shape of images, {above.shape}; got {below.shape}.")
    pairs = np.stack([_rows(above, columns), _rows(below, columns)], axis=1)
    blocks = [_padded(_mosaic(pair), _BLOCK_GAP, axis=0) for pair in pairs]
    ax = _draw(np.concatenate(blocks)[:-_BLOCK_GAP], ax)
    height = above.shape[1]
    centers = (height - 1) / 2 + np.add.outer(len(blocks[0]) * np.arange(len(blocks)), [0, height + _GAP]).ravel()
    ax.set_yticks(centers, ["original", "reconstruction"] * len(blocks))
    ax.tick_params(axis="y", length=0)
    finish(ax, title, _scale(np.concatenate([above, below])), grid=None)
    return ax


def _predictive_means(vi: AmortizedVI, x: Any, options: dict[str, Any]) -> Any:
    """Return the posterior predictive means of the only observed site."""
    predicted = vi.predict(x, **options)
    if len(predicted) != 1:
        raise OptionError(
            f"images must be arrays for a model with several observed or deterministic sites: {list(predicted)}. Pass x and, for "
            f"example, vi.predict(x)['{next(iter(predicted), 'x')}'].mean(0)."
        )
    return next(iter(predicted.values())).double().mean(0)


def _image_stack(name: str, images: Any, shape: Sequence[int] | None) -> Pixels:
    """Return gray images as ``(N, H, W)`` and color images as ``(N, H, W, 3)``."""
    try:
        array = to_array(images)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name} cannot be converted to an array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be an array of real numbers; got dtype {array.dtype}.")
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise DataError(f"{name} must have shape {_SHAPES} with N > 0; got {array.shape}.")
    if array.ndim == 2:
        array = array.reshape(-1, *_image_shape(name, array.shape[1], shape))
    elif shape is not None and array.shape[1:] != tuple(shape):
        raise OptionError(f"shape={shape} does not match {name} of shape {array.shape[1:]}.")
    is_byte, array = array.dtype == np.uint8, array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{name} has {np.sum(~np.isfinite(array))} values that are not finite.")
    if array.ndim == 3:
        return array
    if array.shape[1] not in (1, 3):
        raise DataError(f"{name} must have 1 or 3 channels, {_SHAPES}; got {array.shape}.")
    if array.shape[1] == 1:
        return array[:, 0]
    colors = np.moveaxis(array, 1, -1) / (255 if is_byte else 1)
    low, high = colors.min(), colors.max()
    if low < 0 or high > 1:
        raise DataError(
            f"{name} in color must have values between 0 and 1, or be uint8; got values from {low:.3g} to {high:.3g}. Rescale "
            f"or clip them."
        )
    return colors


def _image_shape(name: str, pixels: int, shape: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape of flattened images of so many pixels."""
    if shape is None:
        side = round(pixels**0.5)
        if side * side != pixels:
            raise OptionError(
                f"shape must be given, such as (H, W) or (3, H, W): {name} have {pixels} pixels each, which are no square."
            )
        return side, side
    found = tuple(shape) if isinstance(shape, Sequence) else ()
    if len(found) not in (2, 3) or not all(isinstance(size, int) and size > 0 for size in found):
        raise OptionError(f"shape must be (H, W), (1, H, W) or (3, H, W); got {shape!r}.")
    if np.prod(found) != pixels:
        raise OptionError(f"shape={found} does not match {name} of {pixels} pixels each.")
    return found


def _rows(images: Pixels, columns: int) -> Pixels:
    """Arrange images ``(N, H, W, ...)`` in rows ``(R, C, H, W, ...)`` of at most ``columns``; the rest is NaN."""
    across = min(positive_int("columns", columns), len(images))
    return _padded(images, -len(images) % across, axis=0).reshape(-1, across, *images.shape[1:])


def _mosaic(rows: Pixels) -> Pixels:
    """Join rows of images ``(R, C, H, W, ...)`` into a picture with gaps of NaN, ``(R * (H + 1) - 1, C * (W + 1) - 1, ...)``."""
    cells = _padded(_padded(rows, _GAP, axis=2), _GAP, axis=3)
    count, across, height, width, *channels = cells.shape
    return cells.swapaxes(1, 2).reshape(count * height, across * width, *channels)[:-_GAP, :-_GAP]


def _padded(array: Pixels, count: int, axis: int) -> Pixels:
    """Append ``count`` entries of NaN along an axis."""
    widths = [(0, count if each == axis else 0) for each in range(array.ndim)]
    return np.pad(array, widths, constant_values=np.nan)


def _draw(picture: Pixels, ax: Axes | None) -> Axes:
    """Draw a picture without frame and ticks; NaN is left empty."""
    height = float(np.clip(WIDTH * picture.shape[0] / picture.shape[1] + _TITLE, *_HEIGHTS))
    ax = axes_or_new(ax, (WIDTH, height))
    if picture.ndim == 3:
        opaque = np.isfinite(picture).all(-1, keepdims=True)
        picture = np.concatenate([np.nan_to_num(picture), opaque], axis=-1)
    # Interpolation would blur images into the gaps.
    ax.imshow(picture, cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _scale(images: Pixels) -> str:
    """Return what black and white mean."""
    return "" if images.ndim == 4 else f"black: {images.min():.2g}, white: {images.max():.2g}"
