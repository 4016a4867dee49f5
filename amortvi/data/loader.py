"""Observations that a `Dataset` or `DataLoader` provides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from amortvi._util.random import random_state
from amortvi.data.batch import Batch, Minibatch
from amortvi.data.convert import check_finite, to_batch
from amortvi.data.observations import DEFAULT_BATCH_SIZE, Observations, check_lengths
from amortvi.errors import DataError, OptionError

__all__ = ["LoaderObservations"]


class LoaderObservations(Observations):
    """Observations from a `Dataset` or `DataLoader`; each batch is converted and checked as it is read.

    A `DataLoader` is used as it is; for a `Dataset`, a loader is created at each pass. An empty source raises `DataError`.
    """

    def __init__(self, source: Dataset[Any] | DataLoader[Any], name: str, dtype: torch.dtype) -> None:
        self.source = source
        self.name = name
        self.dtype = dtype
        if self.size == 0:
            raise DataError(f"{name} has no observations.")

    @property
    def size(self) -> int | None:
        try:
            if not isinstance(self.source, DataLoader):
                return len(self.source)  # type: ignore[arg-type]  # a Dataset need not have a length
            if isinstance(self.source.dataset, IterableDataset):
                return None if self.source.drop_last else len(self.source.dataset)  # type: ignore[arg-type]  # as above
            batches = self.source.batch_sampler
            if not isinstance(batches, BatchSampler):
                return None
            rows = len(batches.sampler)  # type: ignore[arg-type]  # nor need a Sampler
            return rows - rows % batches.batch_size if batches.drop_last else rows
        except TypeError:  # from len(): the source does not know its length
            return None

    def steps(self, batch_size: int | None) -> int | None:
        try:
            return len(self._loader(batch_size))
        except TypeError:  # from len(): the source does not know its length
            return None

    def batch_size_within(self, limit: int) -> int | None:
        # A DataLoader has its own batch size; the loader of a Dataset uses the default or less.
        return None if isinstance(self.source, DataLoader) else min(limit, DEFAULT_BATCH_SIZE)

    def check_ordered(self) -> None:
        if isinstance(self.source, DataLoader) and _shuffles(self.source):
            raise DataError(
                f"{self.name} is a DataLoader that shuffles, so results could not be matched to observations: "
                f"pass DataLoader(..., shuffle=False), or the data themselves."
            )

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        self.check_ordered()
        return self.in_any_order(batch_size)

    def in_any_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        return self._read(self.source if isinstance(self.source, DataLoader) else self._loader(batch_size))

    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        return map(Minibatch, self._read(self._loader(batch_size, generator)))

    def first(self, size: int) -> Batch:
        # The first batch of a shuffling loader is as good as any other, but must not change the random numbers that follow.
        loader = self._loader(None if isinstance(self.source, DataLoader) else size)
        with random_state(0):
            return next(self._read(loader)).take(slice(0, size))

    def _loader(self, batch_size: int | None, generator: torch.Generator | None = None) -> DataLoader[Any]:
        if isinstance(self.source, DataLoader):
            if batch_size is not None:
                raise OptionError(f"batch_size is set by the DataLoader passed as {self.name}; omit it.")
            return self.source
        shuffle = generator is not None and not isinstance(self.source, IterableDataset)
        return DataLoader(self.source, batch_size or DEFAULT_BATCH_SIZE, shuffle=shuffle, generator=generator)

    def _read(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        in_order = not _shuffles(loader)
        # A loader starts each pass by drawing seeds for its workers; unless it shuffles, the caller's stream is not advanced.
        with random_state(0 if in_order else None):
            contents = iter(loader)
        row = 0
        for content in contents:
            # The default collation turns a tuple into a list.
            arguments = tuple(content) if isinstance(content, list) else content
            batch = to_batch(self.name, arguments, self.dtype, collated=True)
            check_lengths(batch, self.name)
            for label, value in batch.named(self.name):
                check_finite(label, value, first_row=row if in_order else None)
            row += batch.size
            yield batch
        if row == 0:
            raise DataError(
                f"{self.name} gave no observations in this pass. A source that can be read only once, such as a generator "
                f"inside an IterableDataset, must start again at each pass."
            )


def _shuffles(loader: DataLoader[Any]) -> bool:
    """Whether a loader reorders the observations of its data set."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return any(
        isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
        or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
        for sampler in samplers
    )
