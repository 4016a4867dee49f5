"""Observations that a `Dataset` or `DataLoader` provides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from amortvi._util.random import random_state
from amortvi.data.batch import Batch, Minibatch
from amortvi.data.convert import check_finite, to_batch
from amortvi.data.observations import DEFAULT_BATCH_SIZE, Observations, check_lengths
from amortvi.data.rereading import (
    MOST_OBSERVATIONS,
    DividedBatches,
    read_once_error,
    reorders,
    sampler_shuffles,
    stream_shuffles,
)
from amortvi.errors import AmortviError, DataError, OptionError, quoted

__all__ = ["LoaderObservations"]

_END = object()


class LoaderObservations(Observations):
    """Observations from a `Dataset` or `DataLoader`; each batch is converted and checked as it is read.

    A `DataLoader` is used as it is; for a `Dataset`, a loader is created at each pass. A source that is empty, or that does not
    give its observations again at each pass, raises `DataError`.
    """

    def __init__(self, source: Dataset[Any] | DataLoader[Any], name: str, dtype: torch.dtype) -> None:
        self.source = source
        self.name = name
        self.dtype = dtype
        self._rows: int | None = None  # in each complete pass
        self._depends_on_seed: bool | None = None  # unknown until it has been tried
        dataset = source.dataset if isinstance(source, DataLoader) else source
        if not isinstance(source, DataLoader | IterableDataset) and self.size is None:
            raise DataError(
                f"{name} is a Dataset without a length: give it __len__ and __getitem__, or make it an IterableDataset."
            )
        if self.size == 0:
            raise DataError(f"{name} has no observations.")
        loader, states = self._loader(None), self.random_state()

        def read() -> Iterator[Batch]:
            self.restore_random_state(states)
            return self._read(loader)

        with self._undisturbed():
            if isinstance(dataset, IterableDataset):
                self._depends_on_seed = stream_shuffles(read, name, loader.num_workers)
            else:
                self._depends_on_seed = sampler_shuffles(loader, name)

    @property
    def size(self) -> int | None:
        if not isinstance(self.source, DataLoader):
            return self._length(self.source)
        batches, workers = self.source.batch_sampler, self.source.num_workers
        if not isinstance(batches, BatchSampler):
            return None  # without automatic batching, the items are batches
        if not isinstance(self.source.dataset, IterableDataset):
            rows = self._length(batches.sampler)
        elif workers > 1 and batches.drop_last:
            return None  # each worker drops observations of its own
        else:
            rows = self._length(self.source.dataset)
        return rows if rows is None or not batches.drop_last else rows - rows % batches.batch_size

    def _length(self, sized: Any) -> int | None:
        try:
            return len(sized)
        except (TypeError, NotImplementedError):  # it does not know its length
            return None
        except Exception as error:
            raise DataError(f"the length of {self.name} must be a nonnegative integer; got {quoted(error)}.") from error

    def steps(self, batch_size: int | None) -> int | None:
        return self._length(self._loader(batch_size))

    def batch_size_within(self, limit: int) -> int | None:
        # A DataLoader has its own batch size; the loader of a Dataset uses the default or less.
        return None if isinstance(self.source, DataLoader) else min(limit, DEFAULT_BATCH_SIZE)

    def check_ordered(self) -> None:
        if self._shuffles(self._loader(None)):
            kind = "DataLoader" if isinstance(self.source, DataLoader) else "Dataset"
            raise DataError(
                f"{self.name} is a {kind} that shuffles, so results could not be matched to observations: "
                f"pass DataLoader(..., shuffle=False), or the data themselves."
            )

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        self.check_ordered()
        return self.in_any_order(batch_size)

    def in_any_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        return self._read(self.source if isinstance(self.source, DataLoader) else self._loader(batch_size))

    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        return self._minibatches(self._loader(batch_size, generator))

    def minibatches(self) -> Iterator[Minibatch]:
        return self._minibatches(self._loader(None))

    def _minibatches(self, loader: DataLoader[Any]) -> Iterator[Minibatch]:
        divided = loader.batch_sampler if isinstance(loader.batch_sampler, DividedBatches) else None
        for number, batch in enumerate(self._read(loader)):
            yield Minibatch(batch, share=None if divided is None else divided.share(number))

    def divided(self, rank: int, count: int) -> Self:
        if count > 1 and isinstance(self.source, DataLoader | IterableDataset):
            kind = "a DataLoader" if isinstance(self.source, DataLoader) else "an IterableDataset"
            raise DataError(
                f"{self.name} is {kind}, whose minibatches cannot be divided among {count} processes: pass a Dataset with "
                f"__getitem__ and __len__, such as loader.dataset, and batch_size."
            )
        return super().divided(rank, count)

    def first(self, size: int) -> Batch:
        # The first batch of a shuffling loader is as good as any other, but must not change the random numbers that follow.
        loader = self._loader(None if isinstance(self.source, DataLoader) else size)
        with self._undisturbed(), random_state(0):
            return next(self._read(loader)).take(slice(0, size))

    def random_state(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators()]

    def restore_random_state(self, states: Sequence[Tensor]) -> None:
        generators = self._generators()
        if len(generators) != len(states):
            raise DataError(
                f"{self.name} must have as many generators as when their states were saved, {len(states)}; it has "
                f"{len(generators)}: pass the same DataLoader(..., generator=...)."
            )
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    def fingerprint(self) -> str:
        loader = self._loader(None)
        parts = [type(self.source).__qualname__, type(loader.dataset).__qualname__, str(self.size)]
        if not self._shuffles(loader):
            once, again = (self.first(DEFAULT_BATCH_SIZE).fingerprint() for _ in range(2))
            parts += [once] if once == again else []  # a data set may draw from a generator of its own
        return sha256("\n".join(parts).encode()).hexdigest()[:32]

    def _generators(self) -> list[torch.Generator]:
        """Return the generators that the user gave to a DataLoader and its samplers."""
        if not isinstance(self.source, DataLoader):
            return []
        batches = self.source.batch_sampler
        owners = (self.source, self.source.sampler, batches, getattr(batches, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Restore the user's generators on exit."""
        states = self.random_state()
        try:
            yield
        finally:
            self.restore_random_state(states)

    def _loader(self, batch_size: int | None, generator: torch.Generator | None = None) -> DataLoader[Any]:
        if isinstance(self.source, DataLoader):
            if batch_size is not None:
                raise OptionError(f"batch_size is set by the DataLoader passed as {self.name}; omit it.")
            return self.source
        shuffle = generator is not None and not isinstance(self.source, IterableDataset)
        if self._part is not None:
            rows = range(self.size or 0)
            sampler = RandomSampler(rows, generator=generator) if shuffle else SequentialSampler(rows)
            batches = DividedBatches(sampler, batch_size or DEFAULT_BATCH_SIZE, *self._part)
            return DataLoader(self.source, batch_sampler=batches, generator=generator)
        return DataLoader(self.source, batch_size or DEFAULT_BATCH_SIZE, shuffle=shuffle, generator=generator)

    def _shuffles(self, loader: DataLoader[Any]) -> bool:
        """Return whether the order of the observations changes from pass to pass."""
        return bool(self._depends_on_seed) or reorders(loader)

    def _read(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        in_order = not self._shuffles(loader)
        divided = loader.batch_sampler if isinstance(loader.batch_sampler, DividedBatches) else None
        size, rows, number = self.size if divided is None else divided.rows, 0, 0
        first: Batch | None = None
        # A loader starts each pass by drawing seeds for its workers; unless it shuffles, the caller's stream is not advanced.
        fixed = in_order and self._depends_on_seed is not None
        with self._described(0, 0), random_state(0 if fixed else None):
            contents = iter(loader)
        while True:
            with self._described(number, rows):
                content = next(contents, _END)
            if content is _END:
                break
            # The default collation turns a tuple into a list.
            arguments = tuple(content) if isinstance(content, list) else content
            batch = to_batch(self.name, arguments, self.dtype, collated=True)
            check_lengths(batch, self.name)
            for label, value in batch.named(self.name):
                check_finite(label, value, first_row=rows if in_order and divided is None else None)
            first = first or batch
            first.check_same_arguments(batch, f"batch {number} of {self.name}", "batch 0")
            rows, number = rows + batch.size, number + 1
            self._check_not_more(rows, size, loader.num_workers)
            yield batch
        self._check_complete(rows, size)
        # A loader of a stream does not know how many batches the workers give.
        steps = None if isinstance(loader.dataset, IterableDataset) else self._length(loader)
        if steps not in (None, number):
            raise DataError(f"{self.name} gave {number} batches in a pass, but its length is {steps}.")

    @contextlib.contextmanager
    def _described(self, number: int, rows: int) -> Iterator[None]:
        """Turn errors of the user's data set into a `DataError` that says what was being read."""
        try:
            yield
        except AmortviError:
            raise
        except Exception as error:
            of_all = "" if self.size is None else f" of {self.size}"
            raise DataError(
                f"{self.name} failed while batch {number} was read, after {rows}{of_all} observations: {quoted(error)}\n"
                f"Each item must be a tensor, an array or a number, or a tuple or dict of these, of the same shape in all items."
            ) from error

    def _check_not_more(self, rows: int, size: int | None, workers: int) -> None:
        """Raise `DataError` if a pass has given more observations than it can have."""
        if size is not None and rows > size:
            cause = (
                f" With num_workers={workers}, each worker repeats an IterableDataset unless its __iter__ selects a part with "
                f"torch.utils.data.get_worker_info()."
                if workers > 1
                else ""
            )
            raise DataError(
                f"{self.name} gave at least {rows} observations in a pass, but its length is {size}: correct __len__.{cause}"
            )
        if size is None and rows > MOST_OBSERVATIONS:
            raise DataError(
                f"{self.name} gave more than {MOST_OBSERVATIONS} observations in a pass and has no length, so it may be endless: "
                f"give the data set __len__, or end the pass."
            )

    def _check_complete(self, rows: int, size: int | None) -> None:
        """Raise `DataError` unless a pass that has ended was complete."""
        if rows == 0:
            raise read_once_error(self.name)
        if size is not None and rows != size:
            raise DataError(
                f"{self.name} gave {rows} observations in a pass, but its length is {size}: correct __len__."
            )
        if self._part is not None:  # passes differ with the batch size
            return
        if self._rows is not None and rows != self._rows:
            raise DataError(
                f"{self.name} gave {rows} observations in this pass, but {self._rows} in an earlier one: each pass must give all "
                f"of them."
            )
        self._rows = rows
