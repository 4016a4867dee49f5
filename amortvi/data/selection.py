"""Selecting some of a set of observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.data.batch import Batch
from amortvi.data.observations import Observations, TensorObservations
from amortvi.errors import DataError

__all__ = ["Rows", "evenly_spaced", "positions", "subset"]

Rows: TypeAlias = int | slice | Sequence[int] | Sequence[bool] | np.ndarray[Any, Any] | Tensor
"""Integer positions, a slice, or a boolean mask."""


def positions(rows: Rows, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the nonnegative positions that ``rows`` selects among ``count`` observations; negative ones count from the end.

    Raises:
        DataError: nothing is selected, a position is out of range, or a mask has another length.
    """
    if isinstance(rows, slice):
        found = np.arange(count)[rows]
    else:
        given = np.atleast_1d(rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows))
        if given.size and (given.ndim != 1 or given.dtype.kind not in "biu"):
            raise DataError(
                f"rows must be integer positions, a slice or a boolean mask; got an array of {given.dtype} of shape "
                f"{given.shape}."
            )
        if given.dtype.kind == "b":
            if given.size != count:
                raise DataError(f"rows is a mask with {given.size} entries, but there are {count} observations.")
            given = given.nonzero()[0]
        found = given.astype(np.int64)
        outside = found[(found < -count) | (found >= count)]
        if outside.size:
            raise DataError(f"rows must be positions from {-count} to {count - 1}; got {int(outside[0])}.")
        found = np.where(found < 0, found + count, found)
    if not found.size:
        raise DataError("rows selects no observations.")
    return found


def subset(observations: Observations, rows: np.ndarray[Any, np.dtype[np.int64]]) -> TensorObservations:
    """Return the observations at the nonnegative positions ``rows``, in that order, in memory."""
    index = None if observations.index is None else observations.index[rows]
    if isinstance(observations, TensorObservations):
        return TensorObservations(observations.batch.take(torch.from_numpy(rows)), observations.name, index)
    unique, order = np.unique(rows, return_inverse=True)
    parts, start = [], 0
    for batch in observations.batches():
        inside = unique[(unique >= start) & (unique < start + batch.size)] - start
        if inside.size:
            parts.append(batch.take(torch.from_numpy(inside)))
        start += batch.size
    found = Batch.concatenate(parts).take(torch.from_numpy(order))
    return TensorObservations(found, observations.name, index)


def evenly_spaced(observations: Observations, count: int) -> TensorObservations:
    """Return about ``count`` observations (all if there are fewer): evenly spaced, or the first batches of a loader."""
    if isinstance(observations, TensorObservations):
        rows = np.linspace(0, observations.size - 1, min(count, observations.size)).round().astype(np.int64)
        return subset(observations, rows)
    parts: list[Batch] = []
    states = observations.random_state()
    try:
        with random_state(0):  # a shuffling loader must not advance the caller's random state
            for batch in observations.in_any_order():
                parts.append(batch)
                if sum(part.size for part in parts) >= count:
                    break
    finally:
        observations.restore_random_state(states)
    return TensorObservations(Batch.concatenate(parts), observations.name)
