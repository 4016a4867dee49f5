"""A set of observations, wherever it lives, as a stream of batches."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from amortvi._checks import positive_int
from amortvi._modes import random_state
from amortvi.errors import DataError, OptionError
from amortvi.observations.batch import Batch
from amortvi.observations.convert import check_finite, to_tensor
from amortvi.observations.minibatch import Minibatch

__all__ = ["LoaderObservations", "Observations", "TensorObservations", "as_observations"]

DEFAULT_BATCH_SIZE = 128


class Observations(ABC):
    """Observations that can be read in batches, in their order or shuffled."""

    name: str
    in_memory: ClassVar[bool] = False
    """Whether all of them are held in memory, so that reading them twice costs nothing."""
    index: Any | None = None
    """The user's labels of the observations (a pandas index), where there are any."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """The number of observations, or ``None`` where only reading all of them would tell."""

    @abstractmethod
    def steps(self, batch_size: int | None) -> int | None:
        """The number of batches that one pass gives, or ``None`` if it cannot be known."""

    def batch_size_up_to(self, limit: int) -> int | None:
        """The batch size to ask for where ``limit`` observations at once are too many to exceed."""
        return limit

    def check_ordered(self) -> None:  # noqa: B027  # most kinds have an order; a loader may not
        """Raise `DataError` if the observations come in another order at each pass, whatever is asked for."""

    @abstractmethod
    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """One pass in the order of the observations."""

    def in_any_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        """One pass where the order does not matter."""
        return self.batches(batch_size)

    @abstractmethod
    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        """One pass in a random order."""

    def resident(self, device: torch.device) -> Observations:
        """Return the observations with all of them on ``device``, if they are in memory and fit there with room to spare."""
        return self

    def as_batch(self) -> Batch:
        """Return all of them in memory, as one batch."""
        return Batch.joined(list(self.batches()))

    @abstractmethod
    def first(self, size: int) -> Batch:
        """The first observations, ``size`` of them or as many as come in one batch."""


class TensorObservations(Observations):
    """Observations held in memory.

    Args:
        batch: all of them; the finite numbers are checked here, once.
        name: how the user refers to them.
        index: the user's labels.
    """

    in_memory = True

    def __init__(self, batch: Batch, name: str, index: Any | None = None) -> None:
        _check_lengths(batch, name)
        for label, value in batch.named(name):
            check_finite(label, value)
        self.batch = batch
        self.name = name
        self.index = index

    @property
    def size(self) -> int:
        return self.batch.size

    def steps(self, batch_size: int | None) -> int:
        return math.ceil(self.size / (batch_size or DEFAULT_BATCH_SIZE))

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        step = batch_size or DEFAULT_BATCH_SIZE
        for start in range(0, self.size, step):
            yield self.batch.take(slice(start, start + step))

    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        order = torch.randperm(self.size, generator=generator).to(next(self.batch.tensors()).device)
        for rows in order.split(batch_size or DEFAULT_BATCH_SIZE):
            yield Minibatch(self.batch, rows)

    def resident(self, device: torch.device) -> Observations:
        if device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(device)
        needed = sum(value.numel() * value.element_size() for value in self.batch.tensors())
        # Half of what is free stays for the networks and their gradients.
        return TensorObservations(self.batch.to(device), self.name, self.index) if needed < free / 2 else self

    def as_batch(self) -> Batch:
        return self.batch

    def first(self, size: int) -> Batch:
        return self.batch.take(slice(0, size))


class LoaderObservations(Observations):
    """Observations that a `Dataset` or `DataLoader` reads; each batch is converted and checked as it comes.

    Args:
        source: a `DataLoader`, used as it is, or a `Dataset`, read through a loader made for each pass.
        name: how the user refers to it.
        dtype: the floating type that the fit works in.
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
                return len(self.source)  # type: ignore[arg-type]  # a Dataset need not have a length; that is the question
            if isinstance(self.source.dataset, IterableDataset):
                return None if self.source.drop_last else len(self.source.dataset)  # type: ignore[arg-type]
            batches = self.source.batch_sampler
            if not isinstance(batches, BatchSampler):
                return None
            rows = len(batches.sampler)  # type: ignore[arg-type]
            return rows - rows % batches.batch_size if batches.drop_last else rows
        except TypeError:
            return None

    def batch_size_up_to(self, limit: int) -> int | None:
        # A loader has made its choice; one made here for a Dataset keeps to the usual size or less.
        return None if isinstance(self.source, DataLoader) else min(limit, DEFAULT_BATCH_SIZE)

    def _loader(self, batch_size: int | None, generator: torch.Generator | None = None) -> DataLoader[Any]:
        if isinstance(self.source, DataLoader):
            if batch_size is not None:
                raise OptionError(f"batch_size is set by the DataLoader given as {self.name}; leave it out.")
            return self.source
        shuffle = generator is not None and not isinstance(self.source, IterableDataset)
        return DataLoader(
            self.source, batch_size=batch_size or DEFAULT_BATCH_SIZE, shuffle=shuffle, generator=generator
        )

    def _read(self, loader: DataLoader[Any], *, in_order: bool) -> Iterator[Batch]:
        # A loader begins each pass with a draw, for the seeds of its workers: where nothing is random, that is no one's.
        with random_state(0 if in_order else None):
            contents = iter(loader)
        row = 0
        for content in contents:
            # The default collation turns the tuple that an item is into a list.
            arguments = tuple(content) if isinstance(content, list) else content
            batch = _to_batch(self.name, arguments, self.dtype, collated=True)
            _check_lengths(batch, self.name)
            for label, value in batch.named(self.name):
                check_finite(label, value, first_row=row if in_order else None)
            row += batch.size
            yield batch
        if row == 0:
            raise DataError(
                f"{self.name} gave no observations in this pass. What can be read only once, such as a generator inside an "
                f"IterableDataset, must begin anew at each pass."
            )

    def steps(self, batch_size: int | None) -> int | None:
        try:
            return len(self._loader(batch_size))
        except TypeError:
            return None

    def check_ordered(self) -> None:
        if isinstance(self.source, DataLoader) and _shuffles(self.source):
            raise DataError(
                f"{self.name} is a DataLoader that shuffles, so results could not be matched to observations: "
                f"pass DataLoader(..., shuffle=False), or the data themselves."
            )

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        self.check_ordered()
        loader = self.source if isinstance(self.source, DataLoader) else self._loader(batch_size)
        return self._read(loader, in_order=True)

    def in_any_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        loader = self.source if isinstance(self.source, DataLoader) else self._loader(batch_size)
        return self._read(loader, in_order=not _shuffles(loader))

    def shuffled(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Minibatch]:
        loader = self._loader(batch_size, generator)
        return map(Minibatch, self._read(loader, in_order=not _shuffles(loader)))

    def first(self, size: int) -> Batch:
        # A loader's first batch may be a shuffled one: any observations serve as an example. To look at one must not
        # change the random numbers that come after.
        loader = self._loader(None if isinstance(self.source, DataLoader) else size)
        with random_state(0):
            return next(self._read(loader, in_order=not _shuffles(loader))).take(slice(0, size))


def _shuffles(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives its observations in another order than the data set has them."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return any(
        isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
        or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
        for sampler in samplers
    )


_Leaf = (Tensor, np.ndarray, list)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, _Leaf) or hasattr(value, "iloc")


def _check_lengths(batch: Batch, name: str) -> None:
    lengths = {label: value.shape[0] for label, value in batch.named(name)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{label} has {length}" for label, length in lengths.items())
        raise DataError(f"the arguments in {name} must have one row for each observation; {listed}.")


def _to_batch(name: str, content: Any, dtype: torch.dtype, *, collated: bool = False) -> Batch:
    def convert(label: str, value: Any) -> Tensor:
        return to_tensor(label, value, dtype, collated=collated)

    if _is_leaf(content):
        return Batch((convert(name, content),))
    if isinstance(content, tuple) and content:
        return Batch(tuple(convert(f"{name}[{i}]", value) for i, value in enumerate(content)))
    if isinstance(content, Mapping) and content:
        return Batch(kwargs={str(k): convert(f"{name}[{k!r}]", v) for k, v in content.items()})
    got = f"an empty {type(content).__name__}" if isinstance(content, tuple | Mapping) else type(content).__name__
    raise DataError(
        f"{name} must be a tensor, NumPy array, DataFrame, a non-empty tuple or dict of these, a torch Dataset or a "
        f"DataLoader; got {got}."
    )


def as_observations(x: Any, dtype: torch.dtype, name: str = "x") -> Observations:
    """Return ``x``, in whatever form the user has it, as `Observations`.

    Args:
        x: a tensor, NumPy array, DataFrame, Series, list of numbers; a tuple (positional arguments) or dict (keyword
            arguments) of these; a torch `Dataset` or `DataLoader` whose items are such.
        dtype: the floating type that the fit works in.
        name: how the user refers to ``x``.

    Raises:
        DataError: there is nothing in it, or it is not finite, of different lengths, of a wrong type.
    """
    if isinstance(x, Observations):
        return x
    if isinstance(x, TensorDataset):
        x = x.tensors
    if isinstance(x, Dataset | DataLoader):
        return LoaderObservations(x, name, dtype)
    frames = x if isinstance(x, tuple) else x.values() if isinstance(x, Mapping) else (x,)
    index = next((frame.index for frame in frames if hasattr(frame, "iloc")), None)
    return TensorObservations(_to_batch(name, x, dtype), name, index)


def check_batch_size(batch_size: int | None) -> int | None:
    """Return ``batch_size`` if it is ``None`` or a positive integer, else raise `OptionError`."""
    return None if batch_size is None else positive_int("batch_size", batch_size)
