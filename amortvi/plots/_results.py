"""The check of a result that is given to be drawn."""

from __future__ import annotations

from typing import Any, TypeVar

from amortvi.errors import OptionError

__all__ = ["check_result"]

Result = TypeVar("Result")


def check_result(name: str, value: Any, kind: type[Result], maker: str) -> Result:
    """Return ``value`` if it is of its kind, else raise `OptionError` naming the argument and what makes one.

    Args:
        name: of the argument.
        value: what the user gave.
        kind: what it must be.
        maker: the function that returns such a thing.

    Example:
        >>> check_result("count", 3, int, "len")
        3
    """
    if not isinstance(value, kind):
        raise OptionError(f"{name} must be what {maker} returns; got {type(value).__name__}.")
    return value
