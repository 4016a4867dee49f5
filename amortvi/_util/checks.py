"""Checks of options, with messages that name the argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from amortvi.errors import OptionError

__all__ = [
    "finite_float",
    "layer_widths",
    "nonnegative_float",
    "nonnegative_int",
    "optional",
    "positive_float",
    "positive_int",
    "probability",
    "seed_or_none",
]

Checked = TypeVar("Checked")
N = TypeVar("N", int, float)


def positive_int(name: str, value: object, *, at_least: int = 1) -> int:
    """Return ``value`` as an ``int`` if it is an integer of at least ``at_least``, else raise `OptionError`."""
    expected = "be a positive integer" if at_least == 1 else f"be an integer of at least {at_least}"
    return _checked(name, value, _as_int(value), expected, lambda number: number >= at_least)


def layer_widths(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Return ``value`` as a tuple if it is a sequence of positive integers, one per layer, else raise `OptionError`."""
    if not hasattr(value, "__iter__"):
        raise OptionError(f"{name} must be a sequence of widths, one per layer, such as [{value}]; got {value!r}.")
    return tuple(positive_int(f"each width in {name}", width) for width in value)


def nonnegative_int(name: str, value: object) -> int:
    """Return ``value`` as an ``int`` if it is a nonnegative integer, else raise `OptionError`."""
    return _checked(name, value, _as_int(value), "be a nonnegative integer", lambda number: number >= 0)


def positive_float(name: str, value: object) -> float:
    """Return ``value`` as a ``float`` if it is a finite positive number, else raise `OptionError`."""
    return _checked(name, value, _as_float(value), "be a finite positive number", lambda number: 0 < number < math.inf)


def nonnegative_float(name: str, value: object) -> float:
    """Return ``value`` as a ``float`` if it is a finite nonnegative number, else raise `OptionError`."""
    return _checked(
        name, value, _as_float(value), "be a finite nonnegative number", lambda number: 0 <= number < math.inf
    )


def finite_float(name: str, value: object) -> float:
    """Return ``value`` as a ``float`` if it is a finite number, else raise `OptionError`."""
    return _checked(name, value, _as_float(value), "be a finite number", math.isfinite)


def probability(name: str, value: object) -> float:
    """Return ``value`` as a ``float`` if it lies strictly between 0 and 1, else raise `OptionError`."""
    return _checked(name, value, _as_float(value), "lie strictly between 0 and 1", lambda number: 0 < number < 1)


def optional(check: Callable[[str, object], Checked], name: str, value: object) -> Checked | None:
    """Return ``None`` if ``value`` is ``None``, else the result of ``check``."""
    return None if value is None else check(name, value)


def seed_or_none(value: object) -> int | None:
    """Return ``value`` if it is ``None`` or a seed that every random generator accepts, else raise `OptionError`."""
    number = None if value is None else _as_int(value)
    if value is not None and (number is None or not 0 <= number < 2**64):
        raise OptionError(f"seed must be an integer from 0 to 2**64 - 1, or None; got {value!r}.")
    return number


def _checked(name: str, value: object, number: N | None, expected: str, is_valid: Callable[[N], bool]) -> N:
    if number is None or not is_valid(number):
        got = f"{value!r} of type {type(value).__name__}" if number is None else str(number)
        raise OptionError(f"{name} must {expected}; got {got}.")
    return number


def _as_int(value: object) -> int | None:
    """Return an integer of any type (NumPy, a tensor) as ``int``; ``None`` for everything else, booleans included."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        return None
    try:
        return int(value.__index__())
    except TypeError:  # arrays and tensors have the method, but it fails unless they hold one integer
        return None


def _as_float(value: object) -> float | None:
    """Return a real number of any type as ``float``; ``None`` for everything else, booleans included."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value.__float__())
    except (TypeError, ValueError, RuntimeError):  # an array or tensor with several elements
        return None
