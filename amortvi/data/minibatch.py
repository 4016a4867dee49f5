"""A minibatch whose observations need not have been gathered yet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.data.batch import Batch

__all__ = ["Minibatch"]


@dataclass(frozen=True)
class Minibatch:
    """The observations at ``rows`` of ``source``. A compiled step gathers them itself.

    Args:
        source: the observations.
        rows: positions in ``source``, ``(B,)``, or ``None`` for all of them.

    Example:
        >>> minibatch = Minibatch(Batch((torch.arange(10),)), torch.tensor([3, 5]))
        >>> minibatch.size, minibatch.gather().args
        (2, (tensor([3, 5]),))
    """

    source: Batch
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """``B``, the number of observations."""
        return self.source.size if self.rows is None else self.rows.shape[0]

    def gather(self) -> Batch:
        """Return the observations as a batch."""
        return self.source if self.rows is None else self.source.take(self.rows)

    def to(self, device: torch.device) -> Minibatch:
        """Return the minibatch on ``device``; a source on another device is gathered first."""
        if self.source.device != device:
            return Minibatch(self.gather().to(device))
        return self if self.rows is None or self.rows.device == device else Minibatch(self.source, self.rows.to(device))

    def tensors(self) -> list[Tensor]:
        """Return the tensors that make up the minibatch, the rows last."""
        return [*self.source.tensors()] if self.rows is None else [*self.source.tensors(), self.rows]

    @property
    def num_shared(self) -> int:
        """How many leading elements of `tensors` are shared by all minibatches of the same source."""
        return 0 if self.rows is None else len([*self.source.tensors()])

    def replace(self, tensors: list[Tensor]) -> Minibatch:
        """Return a minibatch of the same structure made of other ``tensors``."""
        given = iter(tensors)
        source = self.source.map(lambda _: next(given))
        return Minibatch(source, None if self.rows is None else next(given))

    def bootstrap(self) -> Minibatch:
        """Return as many observations, drawn from these with replacement."""
        chosen = torch.randint(self.size, (self.size,), device=self.source.device)
        if self.rows is None:
            return Minibatch(self.source.take(chosen))
        return Minibatch(self.source, self.rows.index_select(0, chosen))
