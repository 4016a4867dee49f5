"""Checks and conversions of the arguments of plots."""

from __future__ import annotations

import operator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amortvi.errors import OptionError

__all__ = ["check_result", "position_of", "to_array"]

Result = TypeVar("Result")


def check_result(name: str, value: Any, kind: type[Result], source: str) -> Result:
    """Return ``value`` if it is of type ``kind``, which the call ``source`` returns, else raise `OptionError`."""
    if not isinstance(value, kind):
        raise OptionError(f"{name} must be the {kind.__name__} that {source} returns; got {type(value).__name__}.")
    return value


def position_of(name: str, value: Any, size: int, items: str = "observations") -> int:
    """Return a position among ``size`` items; a negative one counts from the end. If it is out of range, raise `OptionError`.

    Example:
        >>> position_of("observation", -1, 10)
        9
    """
    try:
        position = operator.index(value)
    except TypeError:
        position = size
    if isinstance(value, bool) or not -size <= position < size:
        raise OptionError(f"{name} must be a position among the {size} {items}; got {value!r}.")
    return position % size


def to_array(value: Any) -> npt.NDArray[Any]:
    """Return a tensor (on any device, with or without gradients), array, Series or other sequence as an array."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
