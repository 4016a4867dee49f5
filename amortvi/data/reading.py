"""The entry of user data: everything that can be passed as ``x`` becomes `Observations`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from amortvi.data.convert import to_batch
from amortvi.data.loader import LoaderObservations
from amortvi.data.observations import Observations, TensorObservations
from amortvi.data.padding import Padded

__all__ = ["as_observations"]


def as_observations(x: Any, dtype: torch.dtype, name: str = "x") -> Observations:
    """Return ``x`` as `Observations`.

    Args:
        x: a tensor, NumPy array, DataFrame, Series or list of numbers; a tuple (positional arguments) or mapping (keyword
            arguments) of these; the result of `pad`; or a torch `Dataset` or `DataLoader` with such items.
        dtype: the floating type of model and encoder.
        name: the name of ``x`` in messages.

    Raises:
        DataError: the observations are empty, not finite, of unequal lengths or of the wrong type.
    """
    if isinstance(x, Observations):
        return x
    if type(x) is TensorDataset:  # a subclass may change its items
        x = x.tensors
    if isinstance(x, Dataset | DataLoader):
        return LoaderObservations(x, name, dtype)
    parts = x if isinstance(x, tuple) else x.values() if isinstance(x, Mapping) else (x,)
    indices = (part.index for part in parts if hasattr(part, "iloc"))
    index = x.labels if isinstance(x, Padded) else next(indices, None)
    return TensorObservations(to_batch(name, x, dtype), name, index)
