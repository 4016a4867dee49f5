"""What users have, as arrays that matplotlib can draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi.errors import DataError, OptionError

__all__ = ["image_stack", "to_array"]


def to_array(value: Any) -> npt.NDArray[Any]:
    """Return a tensor (of any device, with or without gradients), array, Series or sequence as an array."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def image_stack(name: str, images: Any, side: int | None = None) -> npt.NDArray[np.float64]:
    """Return images as an array.

    Args:
        name: how the user refers to them.
        images: ``(N, side * side)`` or ``(N, H, W)``.
        side: the side of a flattened image; by default the square root of its size.

    Returns:
        ``(N, H, W)``.

    Raises:
        DataError: there are none, they are no numbers, not finite, or of another number of dimensions.
        OptionError: flattened images are not squares of this side.
    """
    try:
        array = to_array(images)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name} cannot be read as an array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be an array of real numbers; got dtype {array.dtype}.")
    array = array.astype(np.float64)
    if array.ndim not in (2, 3) or array.size == 0:
        raise DataError(f"{name} must have shape (N, side * side) or (N, H, W), N > 0; got {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has {np.sum(~np.isfinite(array))} values that are not finite.")
    length = None if side is None else positive_int("side", side)
    if array.ndim == 3:
        if length is not None and array.shape[1:] != (length, length):
            raise OptionError(
                f"side={side} does not fit {name}, whose images are {array.shape[1]} by {array.shape[2]}."
            )
        return array
    pixels = array.shape[1]
    length = length or round(pixels**0.5)
    if length * length != pixels:
        raise OptionError(
            f"side must be the square root of the pixels of an image; got {side} for {name} of {pixels} pixels. Give "
            f"images that are not square as (N, H, W)."
        )
    return array.reshape(-1, length, length)
