"""Observations of unequal length, such as sets and sequences, as one padded array and a mask."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amortvi._util.checks import optional, positive_int
from amortvi.data.convert import to_tensor
from amortvi.errors import DataError, OptionError

__all__ = ["Padded", "pad"]


class _Pair(NamedTuple):
    values: Tensor
    mask: Tensor


class Padded(_Pair):
    """The two arguments of a model ``model(values, mask)``, as a tuple that `AmortizedVI.fit` accepts.

    Args:
        values: ``(N, L, *features)``; the padding is zero.
        mask: ``(N, L)``, or the shape of ``values`` if single elements are missing; ``True`` for what was observed.
        labels: the labels of the ``N`` observations, a pandas index, by which results are labeled; ``None`` for positions.
    """

    labels: Any | None = None

    def __new__(cls, values: Tensor, mask: Tensor, labels: Any | None = None) -> Padded:
        made = super().__new__(cls, values, mask)
        made.labels = labels
        return made


def pad(
    arrays: Any,
    *,
    by: Any = None,
    columns: Any = None,
    length: int | None = None,
    dtype: torch.dtype | None = None,
) -> Padded:
    """Return observations of unequal length as one array, padded with zeros, and the mask of what was observed.

    The model receives both, and excludes the padding with ``.mask(mask)``. The encoders `DeepSets`, `SetAttention` and
    `Recurrent` accept them as they are. Later data must have the same shape as those of the fit: choose a ``length`` that is
    enough for all.

    Args:
        arrays: a list of ``N`` arrays or tensors, each ``(n_i, *features)`` or ``(n_i,)``; or a DataFrame with one row per
            measurement.
        by: the column of the DataFrame that says to which observation a row belongs. The observations are in the order in
            which they first appear, and so are the rows of each.
        columns: the columns of the DataFrame that hold the measurements, by default all others. A list gives ``values`` one
            feature per column, ``(N, L, len(columns))``; the name of one column gives ``(N, L)``.
        length: ``L``; by default that of the longest observation.
        dtype: the floating type of ``values``; by default that of the first tensor, or torch's default type for arrays and
            data frames. Integers and booleans keep their type.

    Returns:
        ``values``, ``(N, L, *features)``, and ``mask``, ``(N, L)``, as a tuple. For a DataFrame, its ``labels`` are the
        distinct values of the column ``by``, and results of `AmortizedVI` are labeled by them.

    Raises:
        DataError: there are no observations, one of them is empty, does not hold numbers or has other features than the first,
            a column or a label is missing, or an observation is longer than ``length``.
        OptionError: ``length`` is not a positive integer, or ``dtype`` is not a floating type.

    Example:
        >>> import numpy as np, pandas as pd
        >>> values, mask = pad([np.array([1.0, 2.0]), np.array([3.0])])
        >>> values.tolist(), mask.tolist()
        ([[1.0, 2.0], [3.0, 0.0]], [[True, True], [True, False]])
        >>> frame = pd.DataFrame({"subject": ["b", "b", "a"], "time": [0.0, 1.0, 0.0], "y": [5.0, 6.0, 7.0]})
        >>> padded = pad(frame, by="subject", length=4)
        >>> padded.values.shape, list(padded.labels)
        (torch.Size([2, 4, 2]), ['b', 'a'])
    """
    length, labels = optional(positive_int, "length", length), None
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise OptionError(f"dtype must be a floating type, such as torch.float32; got {dtype!r}.")
    if hasattr(arrays, "columns"):
        tensors, labels = _groups(arrays, by, columns, dtype or torch.get_default_dtype())
    elif by is not None or columns is not None:
        raise DataError(f"by and columns are for a DataFrame; got {type(arrays).__name__}: omit them.")
    else:
        tensors = _tensors(arrays, dtype)
    sizes = torch.tensor([len(tensor) for tensor in tensors])
    longest = int(sizes.max())
    if length is not None and longest > length:
        where = int(sizes.argmax()) if labels is None else labels[int(sizes.argmax())]
        raise DataError(
            f"length={length} is too short: observation {where!r} has {longest} rows. Pass length={longest} or more, to "
            f"this call and to those for other data."
        )
    values = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    if length is not None and length > longest:
        values = torch.cat([values, values.new_zeros(len(tensors), length - longest, *values.shape[2:])], dim=1)
    mask = torch.arange(values.shape[1]) < sizes.unsqueeze(1)
    return Padded(values, mask.to(values.device), labels)


def _tensors(arrays: Any, dtype: torch.dtype | None) -> list[Tensor]:
    """Return each element of ``arrays`` as a tensor; all have the same type and the same features."""
    unordered = isinstance(arrays, str | bytes | Mapping | Set)
    try:
        parts = [] if unordered or not len(arrays) else list(arrays)
    except Exception:  # any, because length and iteration are the object's own
        unordered = True
    if unordered:
        raise DataError(f"arrays must be a list of arrays, or a DataFrame with by=...; got {type(arrays).__name__}.")
    if not parts:
        raise DataError("arrays holds no observations: it is empty.")
    types = (part.dtype for part in parts if isinstance(part, Tensor) and part.is_floating_point())
    floating = dtype or next(types, torch.get_default_dtype())
    tensors = []
    for position, part in enumerate(parts):
        name = f"arrays[{position}]"
        if hasattr(part, "__len__") and getattr(part, "ndim", None) != 0 and len(part) == 0:
            raise DataError(
                f"{name} is empty: each observation needs at least one row. Leave it out; its posterior is the prior."
            )
        tensors.append(to_tensor(name, part, floating, collated=True))
        if tensors[-1].shape[1:] != tensors[0].shape[1:]:
            raise DataError(
                f"{name} must have rows of shape {tuple(tensors[0].shape[1:])}, like arrays[0]; got rows of shape "
                f"{tuple(tensors[-1].shape[1:])}, in an array of shape {tuple(tensors[-1].shape)}."
            )
    common = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    return [tensor.to(common) for tensor in tensors]


def _groups(frame: Any, by: Any, columns: Any, dtype: torch.dtype) -> tuple[list[Tensor], Any]:
    """Return the rows of each group of a DataFrame, and the labels of the groups."""
    if by is None:
        raise DataError(
            f"by must name the column of the DataFrame that tells the observations apart, such as "
            f"by={next(iter(frame.columns), 'subject')!r}."
        )
    if not frame.columns.is_unique:
        twice = list(frame.columns[frame.columns.duplicated()].unique())
        raise DataError(f"the DataFrame must have columns with distinct names; several are named {twice}.")
    chosen = [column for column in frame.columns if column != by] if columns is None else columns
    single = isinstance(chosen, str) or not hasattr(chosen, "__iter__")
    for column in (by, *([chosen] if single else chosen)):
        if not isinstance(column, Hashable) or column not in list(frame.columns):
            raise DataError(f"{column!r} is not a column of the DataFrame, which has {list(frame.columns)}.")
    if len(frame) == 0:
        raise DataError("the DataFrame holds no observations: it has no rows.")
    codes, labels = frame[by].factorize()
    without = (codes < 0).nonzero()[0]
    if without.size:
        raise DataError(
            f"column {by!r} must say to which observation each row belongs; it is missing in {without.size} rows, first in row "
            f"{int(without[0])}: drop them."
        )
    values = to_tensor("frame", frame[chosen if single else list(chosen)], dtype)
    groups = torch.from_numpy(codes)
    ordered = values[groups.argsort(stable=True)]
    return list(ordered.split(groups.bincount().tolist())), labels.rename(by)
