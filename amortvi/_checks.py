"""Checks of options, and imports of optional packages, with messages that name the argument."""

from __future__ import annotations

import importlib
import math
from types import ModuleType

from amortvi.errors import MissingDependencyError, OptionError

__all__ = ["positive_int", "positive_float", "require"]


def positive_int(name: str, value: object) -> int:
    """Return ``value`` if it is an integer of at least one, else raise `OptionError` naming ``name``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise OptionError(f"{name} must be a positive integer; got {value!r} of type {type(value).__name__}.")
    number = int(value.__index__())
    if number < 1:
        raise OptionError(f"{name} must be a positive integer; got {number}.")
    return number


def positive_float(name: str, value: object) -> float:
    """Return ``value`` if it is a finite number above zero, else raise `OptionError` naming ``name``."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise OptionError(f"{name} must be a number above zero; got {value!r} of type {type(value).__name__}.")
    number = float(value)
    if not math.isfinite(number) or number <= 0:
        raise OptionError(f"{name} must be a finite number above zero; got {number}.")
    return number


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, or raise `MissingDependencyError` naming the extra of amortvi that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install 'amortvi[{extra}]'."
        ) from error
