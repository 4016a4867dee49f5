"""Missing values: filled, together with a mask of what was observed."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from amortvi._util.checks import finite_float, optional
from amortvi.data.convert import to_tensor
from amortvi.data.padding import Padded
from amortvi.errors import DataError, OptionError

__all__ = ["mask_missing"]

X = TypeVar("X")


def mask_missing(x: X, *, missing: float | None = None, fill: float | Literal["mean"] = 0.0) -> tuple[X, X]:
    """Return ``x`` with its missing values filled, and the mask of what was observed.

    Both are arguments of a model ``model(x, observed)``, which excludes the missing values with ``.mask(observed)``, whatever
    they are filled with. The encoder reads both too: `MLP` of ``2 * features`` inputs, for example. If its inputs are
    standardized (``fit(standardize=True)``), it does not depend on the filling either.

    Args:
        x: a tensor, NumPy array, list, DataFrame or Series, or the result of `pad`; NaN is a missing value.
        missing: a number that also stands for a missing value, such as -1 among integers, which have no NaN.
        fill: what replaces missing values: a number, or the mean of the observed values of each feature in ``x``.

    Returns:
        The filled values and the mask, ``True`` for what was observed: in the type and shape of ``x``, with the index of a
        DataFrame. For the result of `pad`, another `Padded`, whose mask has the shape of the values and excludes the padding.

    Raises:
        DataError: ``x`` does not hold numbers, or ``fill="mean"`` and a feature was never observed.
        OptionError: ``missing`` or ``fill`` is not a number, or ``x`` holds integers and ``fill`` is none.

    Example:
        >>> x, observed = mask_missing(torch.tensor([[1.0, torch.nan], [3.0, 4.0]]))
        >>> x.tolist(), observed.tolist()
        ([[1.0, 0.0], [3.0, 4.0]], [[True, False], [True, True]])
        >>> mask_missing(torch.tensor([2, -1, 5]), missing=-1)[0]
        tensor([2, 0, 5])
    """
    missing = optional(finite_float, "missing", missing)
    if fill != "mean":
        fill = finite_float("fill", fill)
    content: Any = x
    if isinstance(content, Padded):
        rows = content.mask.reshape(*content.mask.shape, *(1,) * (content.values.dim() - content.mask.dim()))
        observed = _observed(content.values, missing) & rows
        padded: Any = Padded(_filled(content.values, observed, fill, shared=2), observed, content.labels)
        return padded
    floating = content.dtype if isinstance(content, Tensor) and content.is_floating_point() else torch.float64
    tensor = to_tensor("x", content, floating)
    observed = _observed(tensor, missing)
    return _like(content, _filled(tensor, observed, fill, shared=1)), _like(content, observed)


def _observed(values: Tensor, missing: float | None) -> Tensor:
    observed = ~values.isnan()
    return observed if missing is None else observed & (values != missing)


def _filled(values: Tensor, observed: Tensor, fill: float | Literal["mean"], *, shared: int) -> Tensor:
    """Return the values with those that were not observed replaced; a mean is over the first ``shared`` dimensions."""
    if fill != "mean":
        if not values.is_floating_point() and not fill.is_integer():
            raise OptionError(f"fill must be an integer, because x holds {values.dtype}; got {fill}.")
        if not _holds(values.dtype, fill):
            raise OptionError(f"fill must be in the range of {values.dtype}, the type of x; got {fill}.")
        return values.masked_fill(~observed, fill)
    if not values.is_floating_point():
        raise OptionError(
            f"fill='mean' needs real numbers, but x holds {values.dtype}: pass an integer, such as fill=0."
        )
    dims = tuple(range(shared))
    counts = observed.sum(dims)
    if not bool(counts.all()):
        never = (counts == 0).nonzero()[0].tolist()
        raise DataError(
            f"fill='mean' needs an observed value of each feature; x has none of feature {never or 0}. Drop it, or pass a number."
        )
    return torch.where(observed, values, values.masked_fill(~observed, 0.0).sum(dims) / counts)


def _holds(dtype: torch.dtype, number: float) -> bool:
    """Return whether ``number`` is in the range of a type."""
    if dtype == torch.bool:
        return number in (0, 1)
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return limits.min <= number <= limits.max


def _like(x: Any, tensor: Tensor) -> Any:
    """Return ``tensor`` in the type of ``x``: a tensor, a data frame or series with its labels, or an array."""
    if isinstance(x, Tensor):
        return tensor
    array: np.ndarray[Any, Any] = tensor.numpy()
    if hasattr(x, "columns"):
        return type(x)(array, index=x.index, columns=x.columns)
    return type(x)(array, index=x.index, name=x.name) if hasattr(x, "iloc") else array
