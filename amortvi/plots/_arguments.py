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
    """Return ``value`` if it is of type ``kind``.

    Args:
        name: the name of the argument.
        value: the value of the argument.
        kind: the expected type.
        source: the call that returns this type.

    Raises:
        OptionError: ``value`` is of another type.

    Example:
        >>> check_result("count", 3, int, "len(x)")
        3
    """
    if not isinstance(value, kind):
        raise OptionError(f"{name} must be the {kind.__name__} that {source} returns; got {type(value).__name__}.")
    return value


def position_of(name: str, value: Any, size: int, items: str = "observations") -> int:
    """Return the nonnegative position to which ``value`` refers.

    Args:
        name: the name of the argument.
        value: the position; a negative one counts from the end.
        size: the number of items.
        items: what the items are.

    Raises:
        OptionError: ``value`` is not an integer, or is out of range.

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
    """Return a tensor (on any device, with or without gradients), array, Series or sequence as an array."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
