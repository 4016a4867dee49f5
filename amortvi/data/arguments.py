"""What users pass as ``x``, read as observations: the arguments of the model, in any of the supported forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortvi.data.batch import Batch
from amortvi.data.convert import to_tensor
from amortvi.errors import DataError

__all__ = ["to_batch"]


def to_batch(name: str, content: Any, dtype: torch.dtype, *, collated: bool = False) -> Batch:
    """Return ``content`` as the arguments of one call.

    Args:
        name: how the user refers to it.
        content: a tensor, NumPy array, DataFrame, Series or list of numbers; or a tuple (positional arguments) or mapping
            (keyword arguments) of these.
        dtype: the floating type of model and encoder.
        collated: whether a `DataLoader` made the tensors; see `to_tensor`.

    Raises:
        DataError: the content is something else, is empty, or does not hold numbers.
    """

    def convert(label: str, value: Any) -> Tensor:
        return to_tensor(label, value, dtype, collated=collated)

    if isinstance(content, Tensor | np.ndarray | list) or hasattr(content, "iloc"):
        return Batch((convert(name, content),))
    if isinstance(content, tuple) and content:
        return Batch(tuple(convert(f"{name}[{i}]", value) for i, value in enumerate(content)))
    if isinstance(content, Mapping) and content:
        return Batch(kwargs={str(key): convert(f"{name}[{key!r}]", value) for key, value in content.items()})
    got = f"an empty {type(content).__name__}" if isinstance(content, tuple | Mapping) else type(content).__name__
    raise DataError(
        f"{name} must be a tensor, NumPy array, DataFrame, a non-empty tuple or dict of these, a torch Dataset or a "
        f"DataLoader; got {got}."
    )
