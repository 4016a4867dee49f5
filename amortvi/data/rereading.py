"""The order in which a source gives its observations, and whether it gives the same ones at each pass, tried beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from amortvi._util.random import Share, random_state
from amortvi.data.batch import Batch
from amortvi.errors import AmortviError, DataError, quoted

__all__ = [
    "MOST_OBSERVATIONS",
    "DividedBatches",
    "read_once_error",
    "reorders",
    "sampler_shuffles",
    "stream_shuffles",
]

MOST_OBSERVATIONS = 2**24
"""The largest number of observations in one pass over a source that has no length; more are taken for an endless stream."""

_ROWS = 64
"""The number of observations per worker that are compared: coincidences of fewer are possible, of binary ones for example."""


def read_once_error(name: str) -> DataError:
    """Return the error of a source that does not start again at each pass."""
    return DataError(
        f"{name} can be read only once, or gives other observations at each pass; it is read several times. Put the "
        f"observations in memory, such as torch.stack(list(...)), or write an IterableDataset whose __iter__ opens the source "
        f"anew. If it shuffles, use torch's global generator, such as torch.randperm(n)."
    )


def stream_shuffles(read: Callable[[], Iterator[Batch]], name: str, workers: int) -> bool:
    """Return whether the order or content of a stream depends on the random state.

    The beginnings of passes are compared: under two seeds, and if they differ, under the first again.

    Args:
        read: starts a pass.
        name: the name of the source in messages.
        workers: the number of processes that read the stream.

    Raises:
        DataError: a pass does not start where the others do, or the workers repeat each other.
    """
    first = _beginning(read, 0, workers)
    _check_workers(first, name, workers)
    if _same(first, _beginning(read, 1, workers)):
        return False
    if not _same(first, _beginning(read, 0, workers)):
        raise read_once_error(name)
    return True


def _beginning(read: Callable[[], Iterator[Batch]], seed: int, workers: int) -> list[Batch]:
    """Return the first batches of a pass, enough to tell whether another pass starts at the same place."""
    batches: list[Batch] = []
    rows, various = 0, False
    with random_state(seed):
        for batch in read():
            batches.append(batch)
            rows += batch.size
            various = various or _varies(batches[0], batch)
            if various and rows >= _ROWS * max(1, workers) and len(batches) >= workers:
                break
    return batches


def _varies(first: Batch, batch: Batch) -> bool:
    """Return whether some observation of ``batch`` differs from the first one."""
    return any(
        row.shape[1:] != value.shape[1:] or bool((value != row[:1]).any())
        for row, value in zip(first.tensors(), batch.tensors(), strict=True)
    )


def _same(batches: Sequence[Batch], others: Sequence[Batch]) -> bool:
    return len(batches) == len(others) and all(
        batch.describe() == given.describe()
        and all(bool((value == other).all()) for value, other in zip(batch.tensors(), given.tensors(), strict=True))
        for batch, given in zip(batches, others, strict=True)
    )


def _rows(batches: Sequence[Batch]) -> list[bytes]:
    """Return the observations of some batches as bytes, sorted."""
    return sorted(
        b"".join(value.contiguous().numpy().tobytes() for value in batch.take(slice(row, row + 1)).tensors())
        for batch in batches
        for row in range(batch.size)
    )


def _check_workers(batches: Sequence[Batch], name: str, workers: int) -> None:
    """Raise `DataError` if two workers, which take turns, give the same observations, in whatever order."""
    each = len(batches) // max(1, workers)
    parts = [batches[worker : worker + each * workers : workers] for worker in range(workers if each else 0)]
    constant = not any(_varies(batches[0], batch) for batch in batches)
    for worker, part in enumerate(parts[1:], start=1):
        # Equal parts are a coincidence if all that they contain is one repeated observation, and there are others.
        if _rows(parts[0]) == _rows(part) and (constant or any(_varies(part[0], batch) for batch in part)):
            raise DataError(
                f"{name} gives the same observations in workers 0 and {worker} of num_workers={workers}: select a part for each "
                f"worker in __iter__ with torch.utils.data.get_worker_info(), or pass num_workers=0 or 1."
            )


def sampler_shuffles(loader: DataLoader[Any], name: str) -> bool:
    """Return whether a sampler that the user wrote gives another order under another seed.

    Raises:
        DataError: a sampler fails, or can be read only once.
    """
    samplers = (loader.batch_sampler, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return any([_differs(sampler, name) for sampler in samplers if sampler is not None and not _is_known(sampler)])


def _is_known(sampler: Any) -> bool:
    """Return whether a sampler is one of torch's or a sequence, which start again at each pass."""
    written = type(sampler).__module__
    return isinstance(sampler, Sequence | Tensor) or (isinstance(sampler, Sampler) and written.startswith("torch."))


def _differs(sampler: Any, name: str) -> bool:
    (count, order), (again, other) = _order(sampler, name, 0), _order(sampler, name, 1)
    if count != again:
        raise DataError(
            f"the sampler of {name} can be read only once: it gave {count} positions, then {again}. Pass a list of positions, "
            f"or a torch Sampler whose __iter__ starts anew."
        )
    return order != other


def _order(sampler: Any, name: str, seed: int) -> tuple[int, str]:
    """Return the number of elements in a pass of a sampler and a hash of their order."""
    count, order = 0, sha256()
    try:
        with random_state(seed):
            for element in islice(sampler, MOST_OBSERVATIONS):
                order.update(f"{element};".encode())
                count += 1
    except AmortviError:
        raise
    except Exception as error:
        raise DataError(
            f"the sampler of {name} failed after {count} positions: {quoted(error)}. It must give positions of the data set."
        ) from error
    return count, order.hexdigest()


def reorders(loader: DataLoader[Any]) -> bool:
    """Return whether a loader reorders the observations of its data set."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return (loader.num_workers > 1 and not loader.in_order) or any(
        isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
        or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
        for sampler in samplers
    )


class DividedBatches(Sampler[list[int]]):
    """The positions of each minibatch that one of several processes reads."""

    def __init__(self, sampler: RandomSampler | SequentialSampler, batch_size: int, rank: int, count: int) -> None:
        self.sampler = sampler
        self._batches = BatchSampler(sampler, batch_size, drop_last=False)
        self._part = rank, count

    def share(self, number: int) -> Share:
        """Return the share of this process in a minibatch."""
        size = self._batches.batch_size
        return Share.of(min(size, len(self.sampler) - number * size), *self._part)

    @property
    def rows(self) -> int:
        """The number of observations that this process reads in a pass."""
        shares = [self.share(0)] * (len(self) - 1) + [self.share(len(self) - 1)]
        return sum(share.stop - share.start for share in shares)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for number, positions in enumerate(self._batches):
            yield positions[self.share(number).rows]
