"""How much to hold in memory at once, and where the results of the pieces go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["NUMBERS_AT_ONCE", "Gathered", "Tile", "rows_at_once", "spans"]

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


@dataclass(frozen=True)
class Tile:
    """What a model runs on at once.

    Args:
        observations: how many observations.
        draws: how many draws of each of them.
    """

    observations: int
    draws: int

    @classmethod
    def of(cls, draws: int, numbers: int) -> Tile:
        """Return the tile for ``draws`` draws in all, where one draw of one observation makes ``numbers`` numbers.

        Example:
            >>> Tile.of(draws=100, numbers=1024), Tile.of(draws=10_000, numbers=1024)
            (Tile(observations=40, draws=100), Tile(observations=1, draws=4096))
        """
        at_once = min(draws, rows_at_once(numbers))
        return cls(rows_at_once(numbers * at_once), at_once)

    @property
    def numbers_per_observation(self) -> int:
        """How many numbers to reckon with for each observation, such that ``observations`` of them are one chunk."""
        return NUMBERS_AT_ONCE // self.observations


class Gathered:
    """Results of one piece of the observations after the other, each put where it belongs in the whole.

    The whole is allocated once: keeping the pieces and joining them at the end would take twice the memory.

    Args:
        size: the number of observations, or ``None`` where it is not known before the last has come.
        dim: the dimension of the results that the observations are in.

    Example:
        >>> gathered = Gathered(size=3, dim=0)
        >>> gathered.add({"a": torch.tensor([1, 2])})
        >>> gathered.add({"a": torch.tensor([3])})
        >>> gathered.result()
        {'a': tensor([1, 2, 3])}
    """

    def __init__(self, size: int | None, dim: int = 0) -> None:
        self.dim = dim
        self._size = size or 0
        self._filled = 0
        self._whole: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take the results of the next observations; each call has the same names."""
        if not values:
            return
        rows = next(iter(values.values())).shape[self.dim]
        needed = self._filled + rows
        if needed > self._size:
            # Room for half as much again, so that what was there is copied a few times only.
            self._size = needed if not self._whole else max(needed, self._size + self._size // 2)
        for name, value in values.items():
            self._room(name, value).narrow(self.dim, self._filled, rows).copy_(value.detach())
        self._filled = needed

    def _room(self, name: str, like: Tensor) -> Tensor:
        whole = self._whole.get(name)
        if whole is None or whole.shape[self.dim] < self._size:
            shape = list(like.shape)
            shape[self.dim] = self._size
            grown = torch.empty(shape, dtype=like.dtype)
            if whole is not None:
                grown.narrow(self.dim, 0, self._filled).copy_(whole.narrow(self.dim, 0, self._filled))
            self._whole[name] = whole = grown
        return whole

    def result(self) -> dict[str, Tensor]:
        """Return the whole of each, on the CPU."""
        full = {name: whole.narrow(self.dim, 0, self._filled) for name, whole in self._whole.items()}
        return {name: value if value.is_contiguous() else value.contiguous() for name, value in full.items()}
