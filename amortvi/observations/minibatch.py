"""Some observations of a batch, which need not be gathered yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.observations.batch import Batch

__all__ = ["Minibatch"]


@dataclass(frozen=True)
class Minibatch:
    """The observations ``rows`` of ``source``: a compiled step gathers them itself.

    Args:
        source: observations.
        rows: positions in it, ``(B,)``, or ``None`` for all of them.

    Example:
        >>> part = Minibatch(Batch((torch.arange(10),)), torch.tensor([3, 5]))
        >>> part.size, part.gather().args
        (2, (tensor([3, 5]),))
    """

    source: Batch
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """``B``, the number of observations."""
        return self.source.size if self.rows is None else self.rows.shape[0]

    def gather(self) -> Batch:
        """Return the observations."""
        return self.source if self.rows is None else self.source.take(self.rows)

    def to(self, device: torch.device) -> Minibatch:
        """Return the observations on ``device``; what is not there yet is gathered first."""
        if next(self.source.tensors()).device != device:
            return Minibatch(self.gather().to(device))
        return self if self.rows is None or self.rows.device == device else Minibatch(self.source, self.rows.to(device))

    def tensors(self) -> list[Tensor]:
        """What the observations are made of, the rows last."""
        return [*self.source.tensors()] if self.rows is None else [*self.source.tensors(), self.rows]

    @property
    def held(self) -> int:
        """How many of `tensors`, from the first, are the same from one minibatch to the next."""
        return 0 if self.rows is None else len([*self.source.tensors()])

    def of(self, tensors: list[Tensor]) -> Minibatch:
        """Return the same, made of other ``tensors``."""
        given: Iterator[Tensor] = iter(tensors)
        source = self.source.map(lambda _: next(given))
        return Minibatch(source, None if self.rows is None else next(given))

    def resampled(self) -> Minibatch:
        """Return as many observations drawn from these with replacement."""
        device = next(self.source.tensors()).device
        chosen = torch.randint(self.size, (self.size,), device=device)
        if self.rows is None:
            return Minibatch(self.source.take(chosen))
        return Minibatch(self.source, self.rows.index_select(0, chosen))
