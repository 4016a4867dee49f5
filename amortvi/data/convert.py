"""Conversion of the user's observations ``x`` to tensors, the arguments of one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from amortvi.data.batch import Batch
from amortvi.errors import DataError

__all__ = ["check_finite", "to_batch", "to_tensor"]

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_CHECKED_ROWS = 2**14
"""The rows that are searched at once for values that are not finite."""
_READABLE = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")


def to_tensor(name: str, value: Any, dtype: torch.dtype, *, collated: bool = False) -> Tensor:
    """Return ``value`` as a tensor with observations in its first dimension.

    Floating-point arrays, data frames and lists are cast to ``dtype``, because double precision is merely their default. The
    type of a tensor was chosen by the user, so another floating type is an error. Integers and booleans keep their type. A
    memory-mapped file of the right type is not copied, so it may be larger than memory.

    Args:
        name: the name of the value in messages.
        value: a tensor, NumPy array, pandas DataFrame or Series, or nested list of numbers.
        dtype: the floating type of model and encoder.
        collated: whether the value comes from a `DataLoader`, which turns arrays into tensors; it is then cast like an array.

    Raises:
        DataError: the value has no observations, does not hold numbers, or is a tensor of another floating type.
    """
    if isinstance(value, Tensor):
        _check_readable(name, value)
        tensor = value.detach()
        if tensor.is_inference():
            tensor = tensor.clone()  # which can be used to train
        if tensor.dtype in _UNSIGNED:
            tensor = _as_signed(name, tensor)
        if tensor.is_floating_point() and tensor.dtype != dtype:
            if not collated:
                raise DataError(
                    f"{name} is a tensor of {tensor.dtype}, but model and encoder work in {dtype}: convert it with "
                    f"{name}.to({dtype}), or convert them with vi.to(dtype=...) or fit(dtype=...)."
                )
            tensor = tensor.to(dtype)
    else:
        tensor = _from_array(name, value, dtype)
    if tensor.dim() == 0:
        raise DataError(f"{name} must have one row per observation; got a single number. Give it the shape (1, ...).")
    if tensor.numel() == 0:
        missing = "elements" if len(tensor) else "observations"
        raise DataError(f"{name} has no {missing}: its shape is {tuple(tensor.shape)}.")
    return tensor


def _as_signed(name: str, tensor: Tensor) -> Tensor:
    """Return the values of an unsigned tensor in a type that every operation supports."""
    signed = tensor.to(torch.int64)
    if tensor.dtype == torch.uint64 and bool((signed < 0).any()):
        raise DataError(f"{name} has integers above 2**63 - 1, which are not supported: rescale it.")
    return signed


def _check_readable(name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        raise DataError(f"{name} must be a dense tensor; got a nested one: pass avi.pad({name}.unbind()).")
    if tensor.is_quantized:
        raise DataError(
            f"{name} must hold plain numbers; got a quantized tensor of {tensor.dtype}: call {name}.dequantize()."
        )
    if isinstance(tensor, MaskedTensor):
        raise DataError(f"{name} is a masked tensor, whose mask would be lost: pass values and mask as two arguments.")
    if tensor.is_complex():
        raise DataError(
            f"{name} must hold real numbers; got a tensor of {tensor.dtype}: split it with torch.view_as_real({name})."
        )
    if tensor.layout != torch.strided:
        raise DataError(f"{name} must be a dense tensor; got layout {tensor.layout}: call {name}.to_dense() first.")
    if tensor.is_meta:
        raise DataError(f"{name} must hold numbers; got a tensor on the device 'meta', which has no values.")


def _from_array(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"{name} is a masked array, whose mask would be lost: pass values and mask as two arguments of the model, "
            f"({name}.filled(0), ~{name}.mask), and exclude the missing values with pyro.poutine.mask(mask=mask) around "
            f"their pyro.sample, or elementwise with dist.Normal(...).mask(mask).to_event(1)."
        )
    try:
        array = _from_frame(name, value) if hasattr(value, "iloc") else np.asarray(value)
    except Exception as error:  # any, because the conversion is the object's own
        raise DataError(
            f"{name} cannot be read as one array of numbers: {error} Pass several arguments of the model as a tuple, and "
            f"arrays of unequal length, such as sets or sequences, as avi.pad({name})."
        ) from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} must hold numbers; got {type(value).__name__} of dtype {array.dtype}. Encode categories as integers "
            f"or indicators, missing values as a mask, and arrays of unequal length as avi.pad({name})."
        )
    # torch cannot read other byte orders, reversed views, or unsigned and extended types.
    if array.dtype.name not in _READABLE:
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError(f"{name} has integers above 2**63 - 1, which no torch type can hold: rescale it.")
        array = array.astype(np.int64 if array.dtype.kind == "u" else np.float64)
    is_usable = array.dtype.isnative and all(stride >= 0 for stride in array.strides)
    if not is_usable or not (array.flags.writeable or _is_mapped(array)):
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _is_mapped(array: Any) -> bool:
    """Return whether an array is a part of a memory-mapped file, which may be larger than memory."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def _from_frame(name: str, value: Any) -> np.ndarray:
    """Return a DataFrame or Series as an array; missing values of pandas' nullable types become NaN."""
    frame = value if hasattr(value, "columns") else value.to_frame()
    kinds = [getattr(kind, "kind", "O") for kind in frame.dtypes]  # several columns may have the same name
    wrong = [
        f"{column!r} ({kind})" for column, kind in frame.dtypes.items() if getattr(kind, "kind", "O") not in "biuf"
    ]
    if wrong and len(frame):
        listed = ", ".join(wrong[:5])
        where = f"{name} must have only numeric columns; got {listed}" if value is frame else f"{name} must be numeric"
        raise DataError(
            f"{where}{' and more' if len(wrong) > 5 else ''}. Drop them, or encode them with pandas.get_dummies."
        )
    array = np.asarray(value)
    if array.dtype.kind == "O":
        # pandas has no common type for booleans and numbers, nor for nullable columns.
        found = set(kinds)
        whole = not found & {"f"} and not bool(frame.isna().to_numpy().any())
        kind = bool if found == {"b"} and whole else np.int64 if whole else np.float64
        array = frame.to_numpy(dtype=kind, na_value=np.nan if kind is np.float64 else False)
        array = array if value is frame else array[:, 0]
    return array


def check_finite(name: str, tensor: Tensor, first_row: int | None = 0) -> None:
    """Raise `DataError` if ``tensor`` has NaN or infinite values; the message says how many and where.

    ``first_row`` is the position of the tensor's first row in the user's data, or ``None`` if the rows are shuffled.
    """
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum())):
        return
    bad = [(~torch.isfinite(part)).nonzero() for part in tensor.split(_CHECKED_ROWS)]  # of a file larger than memory
    for number, part in enumerate(bad):
        part[:, 0] += number * _CHECKED_ROWS
    places = torch.cat(bad)
    if not len(places):
        return
    nans = int(torch.isnan(tensor[tuple(places.mT)]).sum())
    infinities, places = len(places) - nans, places.cpu()
    rows = places[:, 0].unique()
    where = f"in {len(rows)} of {len(tensor)} rows of a shuffled batch"
    if first_row is not None:
        places[:, 0] += first_row
        first = ", ".join(str(int(i)) for i in places[0])
        shown = ", ".join(str(int(row)) for row in rows[:5] + first_row) + (", ..." if len(rows) > 5 else "")
        where = f"first at [{first}], in {len(rows)} row{'s' * (len(rows) != 1)} ({shown})"
    raise DataError(
        f"{name} has {nans} NaN and {infinities} infinite values, {where}. Drop those rows; or fill the missing values with "
        f"x, observed = avi.mask_missing({name}), pass both to the model, and exclude them with "
        f"pyro.poutine.mask(mask=observed) around their pyro.sample, or elementwise with "
        f"dist.Normal(...).mask(observed).to_event(1)."
    )


def to_batch(name: str, content: Any, dtype: torch.dtype, *, collated: bool = False) -> Batch:
    """Return ``content`` as the arguments of one call; see `to_tensor`.

    ``content`` is one value, a tuple of positional arguments, or a mapping of keyword arguments; anything else is a `DataError`.
    """

    def convert(label: str, value: Any) -> Tensor:
        return to_tensor(label, value, dtype, collated=collated)

    if isinstance(content, Tensor | np.ndarray | list) or hasattr(content, "iloc"):
        return Batch((convert(name, content),))
    if isinstance(content, tuple) and content:
        return Batch(tuple(convert(f"{name}[{i}]", value) for i, value in enumerate(content)))
    if isinstance(content, Mapping) and content:
        for key in content:
            if not isinstance(key, str):
                raise DataError(
                    f"the keys of {name} must be names of arguments of the model; got {key!r}, a {type(key).__name__}."
                )
        return Batch(kwargs={key: convert(f"{name}[{key!r}]", value) for key, value in content.items()})
    got = f"an empty {type(content).__name__}" if isinstance(content, tuple | Mapping) else type(content).__name__
    cure = (
        f" It can be read only once: put the observations in memory with torch.stack(list({name})), or write an IterableDataset "
        f"whose __iter__ starts anew."
        if isinstance(content, Iterator)
        else ""
    )
    raise DataError(
        f"{name} must be a tensor, NumPy array, DataFrame, a non-empty tuple or dict of these, a torch Dataset or a "
        f"DataLoader; got {got}.{cure}"
    )
