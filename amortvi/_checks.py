"""Checks of options, and imports of optional packages, with messages that name the argument."""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import numpy as np

from amortvi.errors import MissingDependencyError, OptionError

__all__ = [
    "finite_float",
    "natural_int",
    "not_negative_float",
    "positive_float",
    "positive_int",
    "require",
    "seed_or_none",
]


def positive_int(name: str, value: object) -> int:
    """Return ``value`` if it is an integer of at least one, else raise `OptionError` naming ``name``."""
    number = _as_int(value)
    if number is None:
        raise OptionError(f"{name} must be a positive integer; got {value!r} of type {type(value).__name__}.")
    if number < 1:
        raise OptionError(f"{name} must be a positive integer; got {number}.")
    return number


def natural_int(name: str, value: object) -> int:
    """Return ``value`` if it is an integer of at least zero, else raise `OptionError` naming ``name``."""
    number = _as_int(value)
    if number is None or number < 0:
        raise OptionError(f"{name} must be a positive integer or 0; got {value!r} of type {type(value).__name__}.")
    return number


def positive_float(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number above zero, else raise `OptionError` naming ``name``."""
    number = _as_float(value)
    if number is None:
        raise OptionError(f"{name} must be a number above zero; got {value!r} of type {type(value).__name__}.")
    if not math.isfinite(number) or number <= 0:
        raise OptionError(f"{name} must be a finite number above zero; got {number}.")
    return number


def not_negative_float(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number of at least zero, else raise `OptionError` naming ``name``."""
    number = _as_float(value)
    if number is None or not math.isfinite(number) or number < 0:
        raise OptionError(
            f"{name} must be a finite number of at least 0; got {value!r} of type {type(value).__name__}."
        )
    return number


def finite_float(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number, else raise `OptionError` naming ``name``."""
    number = _as_float(value)
    if number is None or not math.isfinite(number):
        raise OptionError(f"{name} must be a finite number; got {value!r} of type {type(value).__name__}.")
    return number


def seed_or_none(value: object) -> int | None:
    """Return ``value`` if it is ``None`` or a seed that every generator takes, else raise `OptionError`."""
    number = None if value is None else _as_int(value)
    if value is not None and (number is None or not 0 <= number < 2**64):
        raise OptionError(f"seed must be an integer from 0 to 2**64 - 1, or None; got {value!r}.")
    return number


def _as_int(value: object) -> int | None:
    """Return an integer of any kind (NumPy's, a tensor's) as ``int``; ``None`` for all else, booleans among it."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        return None
    try:
        return int(value.__index__())
    except TypeError:  # arrays and tensors have the method, whatever is in them
        return None


def _as_float(value: object) -> float | None:
    """Return a real number of any kind as ``float``; ``None`` for all else, booleans among it."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value.__float__())
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several numbers
        return None


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, or raise `MissingDependencyError` naming the extra of amortvi that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install 'amortvi[{extra}]'."
        ) from error
