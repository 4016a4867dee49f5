"""From what users have (tensors, arrays, data frames) to tensors, with errors that name the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortvi.errors import DataError

__all__ = ["check_finite", "to_tensor"]

_TORCH_FROM_NUMPY = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


def to_tensor(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    """Return ``value`` as a tensor with the observations first.

    Arrays, data frames and lists of floating numbers are cast to ``dtype``, since double is only their default; a tensor
    is a choice of the user's, so one of another floating type is an error. Integers and booleans stay as they are.

    Args:
        name: how the user refers to the value.
        value: a tensor, NumPy array, pandas DataFrame or Series, or nested list of numbers.
        dtype: the floating type that the fit works in.

    Raises:
        DataError: the value has no observations, holds something other than numbers, or is a tensor of another
            floating type.
    """
    tensor = _check_dtype(name, value, dtype) if isinstance(value, Tensor) else _from_array(name, value, dtype)
    if tensor.dim() == 0:
        raise DataError(f"{name} must have one row an observation; got a single number.")
    if tensor.shape[0] == 0:
        raise DataError(f"{name} has no observations: its shape is {tuple(tensor.shape)}.")
    return tensor


def _check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype != dtype):
        raise DataError(
            f"{name} is a tensor of {tensor.dtype}, but model and encoder work in {dtype}: convert it with "
            f"{name}.to({dtype}), or convert them with vi.to(dtype=...) or fit(dtype=...)."
        )
    if tensor.layout != torch.strided:
        raise DataError(f"{name} must be a dense tensor; got layout {tensor.layout}: call {name}.to_dense() first.")
    return tensor.detach()


def _from_array(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"{name} is a masked array, whose mask would be lost: pass values and mask as two arguments of the model, "
            f"which can use the mask in pyro.sample(..., obs_mask=mask)."
        )
    if hasattr(value, "dtypes") and hasattr(value, "columns"):
        _check_columns(name, value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} cannot be read as an array of numbers: {error}.") from error
    if array.dtype.name not in _TORCH_FROM_NUMPY:
        raise DataError(
            f"{name} must hold numbers; got {type(value).__name__} of dtype {array.dtype}. Encode categories as integers "
            f"or indicators, and missing values as a mask, first."
        )
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    tensor = torch.from_numpy(array)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _check_columns(name: str, frame: Any) -> None:
    wrong = [column for column, kind in frame.dtypes.items() if getattr(kind, "kind", "O") not in "biuf"]
    if wrong:
        kinds = ", ".join(f"{column!r} ({frame.dtypes[column]})" for column in wrong[:5])
        raise DataError(
            f"{name} must have numeric columns only; got {kinds}{' and more' if len(wrong) > 5 else ''}. Drop them, or "
            f"encode them with pandas.get_dummies."
        )


def check_finite(name: str, tensor: Tensor, first_row: int = 0) -> None:
    """Raise `DataError` if ``tensor`` has a NaN or an infinity, saying how many and where.

    Args:
        name: how the user refers to the tensor.
        tensor: any shape.
        first_row: the number of the tensor's first row in the user's data.
    """
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all()):
        return
    nans = int(torch.isnan(tensor).sum())
    infinities = int(torch.isinf(tensor).sum())
    places = (~torch.isfinite(tensor)).nonzero()
    rows = places[:, 0].unique() + first_row
    place = ", ".join(
        str(int(i)) for i in (places[0] + torch.tensor([first_row] + [0] * (tensor.dim() - 1)).to(places))
    )
    shown = ", ".join(str(int(row)) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    raise DataError(
        f"{name} has {nans} NaN and {infinities} infinite values, first at [{place}], in {len(rows)} rows ({shown}). Drop "
        f"those rows, or give the model the missing values as a mask (pyro.sample(..., obs_mask=mask)) and fill them in."
    )
