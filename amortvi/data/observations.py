"""A set of observations, in memory or not, as a stream of batches."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from amortvi._util.random import Share, random_state
from amortvi.data.batch import Batch, Minibatch
from amortvi.data.convert import check_finite
from amortvi.errors import DataError

__all__ = ["DEFAULT_BATCH_SIZE", "Observations", "TensorObservations", "check_lengths"]

DEFAULT_BATCH_SIZE = 128


class Observations(ABC):
    """Observations that can be read in batches, in order or shuffled."""

    name: str
    in_memory: ClassVar[bool] = False
    """Whether all observations are in memory, so that reading them again costs nothing."""
    index: Any | None = None
    """The user's labels of the observations (a pandas index), if any."""
    _part: tuple[int, int] | None = None
    """The number of this process and the number of processes, if minibatches are divided."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """The number of observations, or ``None`` if it is unknown before all have been read."""

    @abstractmethod
    def steps(self, batch_size: int | None) -> int | None:
        """Return the number of batches per pass, or ``None`` if it is unknown."""

    def batch_size_within(self, limit: int) -> int | None:
        """Return the batch size to request if at most ``limit`` observations fit in memory."""
        return limit

    def check_ordered(self) -> None:  # noqa: B027  # only a loader can lack an order
        """Raise `DataError` if the order of the observations changes from pass to pass."""

    @abstractmethod
    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Iterate once over the observations, in order."""

    def in_any_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Iterate once over the observations; any order is accepted."""
        return self.batches(batch_size)

    @abstractmethod
    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        """Iterate once over the observations, in random order."""

    def minibatches(self) -> Iterator[Minibatch]:
        """Iterate once over the observations; any order is accepted."""
        return map(Minibatch, self.in_any_order())

    def divided(self, rank: int, count: int) -> Self:
        """Return the observations with minibatches of which this process, ``rank`` of ``count``, reads its share.

        Raises:
            DataError: the observations cannot be read by position.
        """
        if count == 1:
            return self
        divided = copy.copy(self)
        divided._part = rank, count
        return divided

    def _share(self, size: int) -> Share | None:
        """Return the share of this process in a minibatch of ``size`` observations, or ``None`` if it has all of it."""
        return None if self._part is None else Share.of(size, *self._part)

    def positions(self, rows: Tensor) -> Tensor:
        """Return the positions of observations in the user's data, of which these may be a part."""
        return rows

    def split(self, fraction: float, seed: int | None) -> tuple[Observations, Observations]:
        """Return two random parts; the second has about a ``fraction`` of the observations.

        Raises:
            DataError: the observations are not in memory, or a part would be empty.
        """
        raise DataError(
            "validation_data can be a fraction only of data in memory; for a DataLoader, pass validation data."
        )

    def resident(self, device: torch.device) -> Observations:
        """Return the observations on ``device`` if they are in memory and fit there easily, else unchanged."""
        return self

    def as_batch(self) -> Batch:
        """Return all observations as one batch in memory."""
        return Batch.concatenate(list(self.batches()))

    @abstractmethod
    def first(self, size: int) -> Batch:
        """Return the first ``size`` observations, or as many as one batch has."""

    def sample(self, size: int) -> Batch:
        """Return up to ``size`` observations from the whole range if they are in memory, and otherwise the first ones."""
        return self.first(size)

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash that identifies the data: of all contents in memory, or of the first batch of a loader."""

    def random_state(self) -> list[Tensor]:
        """Return the states of the generators that determine the order of the observations, if the user gave any."""
        return []

    def restore_random_state(self, states: Sequence[Tensor]) -> None:
        """Restore the states that `random_state` returned.

        Raises:
            DataError: there are other generators than when the states were saved.
        """
        if states:
            raise DataError(
                f"{self.name} must be the DataLoader with the same {len(states)} generators as when their states were saved; "
                f"got data without generators."
            )


class TensorObservations(Observations):
    """Observations in memory; arguments that differ in length or are not finite raise `DataError`."""

    in_memory = True

    def __init__(self, batch: Batch, name: str, index: Any | None = None, positions: Tensor | None = None) -> None:
        check_lengths(batch, name)
        for label, value in batch.named(name):
            check_finite(label, value)
        self.batch = batch
        self.name = name
        self.index = index
        self._positions = positions

    @property
    def size(self) -> int:
        return self.batch.size

    def positions(self, rows: Tensor) -> Tensor:
        return rows if self._positions is None else self._positions[rows.cpu()]

    def steps(self, batch_size: int | None) -> int:
        return math.ceil(self.size / (batch_size or DEFAULT_BATCH_SIZE))

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        step = batch_size or DEFAULT_BATCH_SIZE
        for start in range(0, self.size, step):
            yield self._copied(slice(start, start + step))

    def _copied(self, rows: slice) -> Batch:
        """Return some observations, which a model may overwrite; those of a memory-mapped file may be read-only."""
        copies: dict[object, Tensor] = {}

        def copied(value: Tensor) -> Tensor:  # a tensor that is passed as two arguments stays one
            place = value.data_ptr(), value.shape, value.stride(), value.dtype
            return copies.setdefault(place, value.clone())

        return self.batch.take(rows).map(copied)

    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        order = torch.randperm(self.size, generator=generator).to(self.batch.device)
        for rows in order.split(batch_size or DEFAULT_BATCH_SIZE):
            yield Minibatch(self.batch, rows, self._share(len(rows)))

    def minibatches(self) -> Iterator[Minibatch]:
        for batch in self.batches():
            share = self._share(batch.size)
            yield Minibatch(batch if share is None else batch.take(share.rows), share=share)

    def split(self, fraction: float, seed: int | None) -> tuple[Observations, Observations]:
        count = round(fraction * self.size)
        if not 0 < count < self.size:
            raise DataError(
                f"validation_data={fraction} of {self.size} observations leaves none to train or to validate."
            )
        with random_state(seed):
            order = torch.randperm(self.size, device=self.batch.device)
        # Both parts keep the order of the data.
        held_out, kept = order[:count].sort().values, order[count:].sort().values
        train = TensorObservations(self.batch.take(kept), self.name, positions=kept.cpu())
        return train, TensorObservations(self.batch.take(held_out), "validation_data", positions=held_out.cpu())

    def resident(self, device: torch.device) -> Observations:
        if device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(device)
        needed = sum(value.numel() * value.element_size() for value in self.batch.tensors())
        # Half of the free memory is left to the networks and their gradients.
        return self.on(device) if needed < free / 2 else self

    def on(self, device: torch.device) -> TensorObservations:
        """Return the observations on ``device``."""
        return TensorObservations(self.batch.to(device), self.name, self.index, self._positions)

    def as_batch(self) -> Batch:
        return self.batch

    def first(self, size: int) -> Batch:
        return self._copied(slice(0, size))

    def fingerprint(self) -> str:
        return self.batch.fingerprint()

    def sample(self, size: int) -> Batch:
        return self._copied(slice(None, None, max(1, self.size // size)))


def check_lengths(batch: Batch, name: str) -> None:
    """Raise `DataError` unless all arguments of a batch have the same number of observations."""
    lengths = {label: value.shape[0] for label, value in batch.named(name)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{label} has {length}" for label, length in lengths.items())
        raise DataError(f"the arguments in {name} must have one row per observation each; {listed}.")
