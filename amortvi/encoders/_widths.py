"""The widths of a network's layers, checked."""

from __future__ import annotations

from collections.abc import Sequence

from amortvi._util.checks import positive_int
from amortvi.errors import OptionError

__all__ = ["checked_widths"]


def checked_widths(name: str, widths: Sequence[int]) -> list[int]:
    """Return ``widths`` as integers.

    Raises:
        OptionError: they are no sequence of positive integers.
    """
    if not hasattr(widths, "__iter__"):
        raise OptionError(
            f"{name} must be a sequence of widths, one for each layer, such as [{widths}]; got {widths!r}."
        )
    return [positive_int(f"each width in {name}", width) for width in widths]
