"""Observations together with replicates of them, which are drawn anew for each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from amortvi.data.batch import Batch, Minibatch
from amortvi.data.observations import TensorObservations

__all__ = ["ReplicatedObservations"]


class ReplicatedObservations(TensorObservations):
    """Observations in memory with replicates of each, which are drawn anew for each shuffled pass.

    Until the first pass, the replicates are copies.

    Args:
        observed: the observations.
        replicate: returns one replicate of each observation of a batch.
        times: the number of replicates of each observation.
        name: what messages call the observations.
    """

    def __init__(self, observed: Batch, replicate: Callable[[Batch], Batch], times: int, name: str) -> None:
        super().__init__(observed.repeat(1 + times), name)
        self._observed, self._replicate, self._times = observed, replicate, times

    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        size = self._observed.size
        for copy in range(1, 1 + self._times):
            drawn = self._replicate(self._observed)
            # In place, because compiled steps hold references to these tensors.
            for values, new in zip(self.batch.tensors(), drawn.tensors(), strict=True):
                values[copy * size : (copy + 1) * size].copy_(new)
        yield from super().shuffled(batch_size, generator)

    def fingerprint(self) -> str:
        return self._observed.fingerprint()

    def on(self, device: torch.device) -> ReplicatedObservations:
        return ReplicatedObservations(self._observed.to(device), self._replicate, self._times, self.name)
