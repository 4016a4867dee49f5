"""How much to hold in memory at once."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["NUMBERS_AT_ONCE", "rows_at_once", "spans"]

NUMBERS_AT_ONCE = 2**22
"""Numbers of one intermediate result that long work holds at once: 16 MiB in single precision."""


def rows_at_once(numbers_per_row: int) -> int:
    """How many rows of ``numbers_per_row`` numbers make one chunk, at least one.

    Example:
        >>> rows_at_once(1024)
        4096
    """
    return max(1, NUMBERS_AT_ONCE // max(1, numbers_per_row))


def spans(total: int, step: int) -> Iterator[range]:
    """Cut ``range(total)`` into pieces of ``step``."""
    for start in range(0, total, step):
        yield range(start, min(start + step, total))
