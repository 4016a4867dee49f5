"""Sizes of chunks that fit in memory, and the collection of their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["NUMBERS_AT_ONCE", "Gathered", "rows_at_once", "spans"]

NUMBERS_AT_ONCE = 2**22
"""The largest number of elements of one intermediate result: 16 MiB in single precision."""


def rows_at_once(numbers_per_row: int) -> int:
    """Return how many rows with ``numbers_per_row`` elements each make one chunk, at least one.

    Example:
        >>> rows_at_once(1024)
        4096
    """
    return max(1, NUMBERS_AT_ONCE // max(1, numbers_per_row))


def spans(total: int, step: int) -> Iterator[range]:
    """Split ``range(total)`` into consecutive ranges of length ``step``; the last may be shorter."""
    for start in range(0, total, step):
        yield range(start, min(start + step, total))


class Gathered:
    """Concatenates the results of successive chunks of observations.

    Each chunk is written to its place in a tensor that is allocated once: ``torch.cat`` would take twice the memory.

    Args:
        size: the number of observations, or ``None`` if it is unknown until the last chunk.
        dim: the dimension of the results that indexes observations.
    """

    def __init__(self, size: int | None, dim: int = 0) -> None:
        self._dim = dim
        self._size = size or 0
        self._filled = 0
        self._whole: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Append the results of the next observations; each call must have the same names."""
        if not values:
            return
        rows = next(iter(values.values())).shape[self._dim]
        needed = self._filled + rows
        if needed > self._size:
            # Half as much again, so that earlier results are copied only a few times.
            self._size = needed if not self._whole else max(needed, self._size + self._size // 2)
        for name, value in values.items():
            self._room(name, value).narrow(self._dim, self._filled, rows).copy_(value.detach())
        self._filled = needed

    def _room(self, name: str, like: Tensor) -> Tensor:
        whole = self._whole.get(name)
        if whole is None or whole.shape[self._dim] < self._size:
            shape = list(like.shape)
            shape[self._dim] = self._size
            grown = torch.empty(shape, dtype=like.dtype)
            if whole is not None:
                grown.narrow(self._dim, 0, self._filled).copy_(whole.narrow(self._dim, 0, self._filled))
            self._whole[name] = whole = grown
        return whole

    def result(self) -> dict[str, Tensor]:
        """Return everything collected so far, on the CPU."""
        return {name: whole.narrow(self._dim, 0, self._filled).contiguous() for name, whole in self._whole.items()}
