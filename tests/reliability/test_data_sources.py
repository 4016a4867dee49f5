"""Sources that cannot be read again, lie about their length, fail or never end: refused, or read completely."""

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, get_worker_info

from amortvi.data import Batch, Observations, as_observations, loader, rereading
from amortvi.errors import DataError, OptionError
from tests.data.forms import Rows, Stream
from tests.reliability.fuzz_data import fuzz

ROWS = 60


def data(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))


def read(x: Any) -> Observations:
    return as_observations(x, torch.float32)


def everything(observations: Observations) -> Tensor:
    return Batch.concatenate(list(observations.in_any_order())).args[0]


class Passes(IterableDataset[Any]):
    """A stream whose passes a function starts, with a length if one is given."""

    def __init__(self, start: Callable[[], Iterator[Any]], length: int | None = None) -> None:
        self.start, self.length = start, length

    def __iter__(self) -> Iterator[Any]:
        return self.start()

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError
        return self.length


def once(x: Tensor) -> Passes:
    rows = iter(x)
    return Passes(lambda: (row for row in rows))


class Cursor(IterableDataset[Any]):
    """A data set that is its own iterator; only ``rewinds`` says whether a pass starts at the beginning."""

    def __init__(self, x: Tensor, *, rewinds: bool) -> None:
        self.x, self.rewinds, self.row = x, rewinds, 0

    def __iter__(self) -> Iterator[Any]:
        self.row = 0 if self.rewinds else self.row
        return self

    def __next__(self) -> Tensor:
        if self.row == len(self.x):
            raise StopIteration
        self.row += 1
        return self.x[self.row - 1]


def endlessly(x: Tensor) -> Iterator[Tensor]:
    while True:
        yield from x


READ_ONCE: dict[str, Callable[[], Any]] = {
    "one iterator": lambda: Passes(partial(iter, iter(data()))),
    "generators over one iterator": lambda: once(data()),
    "more than the beginning": lambda: once(data(1000)),
    "constant rows": lambda: once(torch.ones(1000, 3)),
    "its own iterator": lambda: Cursor(data(), rewinds=False),
    "loader": lambda: DataLoader(once(data()), batch_size=16),
    "loader of batches": lambda: DataLoader(once(data().reshape(6, 10, 3)), batch_size=None),
    "loader of single rows": lambda: DataLoader(once(data()), batch_size=1),
    "its own order": lambda: Passes(partial(shuffled, np.random.default_rng(0).permutation)),
    "generator as sampler": lambda: DataLoader(Rows(data()), sampler=(row for row in range(ROWS))),
    "iterator of batches": lambda: DataLoader(Rows(data()), batch_sampler=iter([[0, 1], [2]])),
    "iterator in a batch sampler": lambda: DataLoader(
        Rows(data()), batch_sampler=BatchSampler(iter(range(ROWS)), 8, drop_last=False)
    ),
}


def shuffled(permutation: Callable[[int], Any]) -> Iterator[Tensor]:
    return iter(data()[torch.as_tensor(np.asarray(permutation(ROWS)))])


@pytest.mark.parametrize("case", READ_ONCE)
def test_sources_that_can_be_read_only_once_are_refused(case: str) -> None:
    with pytest.raises(DataError, match=r"x can be read only once.*(in memory|list of positions)"):
        read(READ_ONCE[case]())


@pytest.mark.parametrize(
    "x", [(row for row in data()), iter(data()), map(list, data()), zip(data(), data(), strict=True)]
)
def test_iterators_are_refused_with_the_cure(x: Any) -> None:
    with pytest.raises(DataError, match=r"x must be a tensor.*read only once.*torch\.stack\(list\(x\)\).*__iter__"):
        read(x)


IN_ORDER: dict[str, Callable[[], Any]] = {
    "stream": lambda: Stream(data()),
    "constant rows": lambda: Stream(torch.ones(ROWS, 3)),
    "rewinding": lambda: Cursor(data(), rewinds=True),
    "batches": lambda: DataLoader(Stream(data().reshape(6, 10, 3)), batch_size=None),
    "positions": lambda: DataLoader(Rows(data()), batch_size=7, sampler=range(ROWS)),
}


@pytest.mark.parametrize("case", IN_ORDER)
def test_sources_that_start_again_are_read_completely(case: str) -> None:
    observations, state = read(IN_ORDER[case]()), torch.get_rng_state()
    for _ in range(2):
        observations.first(1)
        assert torch.equal(everything(observations), torch.ones(ROWS, 3) if case == "constant rows" else data())
    observations.check_ordered()
    assert torch.equal(torch.get_rng_state(), state)


SHUFFLED: dict[str, Callable[[], Any]] = {
    "torch": lambda: Passes(partial(shuffled, torch.randperm)),
    "NumPy": lambda: Passes(partial(shuffled, np.random.permutation)),
    "Python": lambda: Passes(partial(shuffled, lambda count: random.sample(range(count), count))),
    "sampler": lambda: DataLoader(Rows(data()), sampler=Positions()),
}


class Positions:
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(ROWS).tolist())


@pytest.mark.parametrize("case", SHUFFLED)
def test_sources_that_shuffle_by_the_global_generators_train_but_have_no_order(case: str) -> None:
    observations = read(SHUFFLED[case]())
    with pytest.raises(DataError, match=r"x is a Data.* that shuffles"):
        observations.batches()
    passes = [everything(observations) for _ in range(2)]
    assert not torch.equal(*passes)  # an order of its own at each pass
    for found in passes:
        assert torch.equal(found.sort(0).values, data().sort(0).values)


def test_augmentation_is_accepted() -> None:
    class Noisy(Rows):
        def __getitem__(self, row: int) -> Tensor:
            return super().__getitem__(row) + torch.randn(3)

    for x in (Noisy(data()), DataLoader(Noisy(data()), batch_size=8, shuffle=True)):
        observations = read(x)
        assert everything(observations).shape == (ROWS, 3)
    assert observations.fingerprint() == observations.fingerprint()


class Split(IterableDataset[Any]):
    """A stream that gives each worker its part if it ``splits``."""

    def __init__(self, x: Tensor, *, splits: bool) -> None:
        self.x, self.splits = x, splits

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        return iter(self.x[worker.id :: worker.num_workers] if self.splits else self.x)


@pytest.mark.filterwarnings(r"ignore:This process .* is multi-threaded, use of fork\(\):DeprecationWarning")
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_must_not_repeat_each_other(persistent: bool) -> None:
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 2, "persistent_workers": persistent}
    for x in (data(), data(1)):
        with pytest.raises(DataError, match=r"same observations in workers 0 and 1 of num_workers=2.*get_worker_info"):
            read(DataLoader(Split(x, splits=False), **options))
    observations = read(DataLoader(Split(data(), splits=True), **options))
    found = [everything(observations) for _ in range(2)]
    assert torch.equal(*found)
    assert torch.equal(found[0].sort(0).values, data().sort(0).values)


class Failing(Dataset[Any]):
    """A data set that fails at a row, or gives something else there."""

    def __init__(self, row: int, what: Any, length: int = ROWS) -> None:
        self.row, self.what, self.length = row, what, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> Any:
        if row == self.row and isinstance(self.what, BaseException):
            raise self.what
        return self.what if row == self.row else data()[row]


def stream(count: int, length: int) -> Passes:
    return Passes(lambda: iter(data(count)), length)


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: stream(ROWS, 70), ["gave 60 observations", "its length is 70", "__len__"]),
        (lambda: stream(ROWS, 50), ["gave at least 60 observations", "its length is 50", "__len__"]),
        (lambda: DataLoader(stream(ROWS, 50), batch_size=8), ["gave at least 56", "its length is 50"]),
        (lambda: DataLoader(stream(ROWS, 80), batch_size=8, drop_last=True), ["gave 56", "its length is 80"]),
        (lambda: Passes(lambda: endlessly(data()), 150), ["gave at least 256", "its length is 150"]),
        (lambda: DataLoader(Failing(20, IndexError()), batch_size=8), ["batch 2", "after 16 of 60", "IndexError"]),
        (lambda: DataLoader(Failing(20, StopIteration()), batch_size=8), ["gave 16 observations", "is 60"]),
        (
            lambda: DataLoader(Failing(20, StopIteration()), batch_sampler=[[row] for row in range(ROWS)]),
            ["gave 20 batches", "its length is 60"],
        ),
        (lambda: stream(ROWS, -1), ["the length of x must be a nonnegative integer", "ValueError"]),
        (lambda: stream(ROWS, 2**70), ["the length of x must be a nonnegative integer", "OverflowError"]),
    ],
)
def test_lengths_that_lie(make: Callable[[], Any], facts: list[str]) -> None:
    with pytest.raises(DataError, match=".*".join(map(re.escape, facts))):
        everything(read(make()))


def test_a_pass_that_is_shorter_than_an_earlier_one() -> None:
    remaining = [300] * 6
    observations = read(Passes(lambda: iter(data(remaining.pop()))))
    assert len(everything(observations)) == 300
    remaining.append(280)
    with pytest.raises(DataError, match="x gave 280 observations in this pass, but 300 in an earlier one"):
        everything(observations)


@pytest.mark.parametrize(
    ("what", "fact"),
    [
        (None, "NoneType"),
        (torch.zeros(2), "RuntimeError"),
        (object(), "TypeError"),
        (KeyError("k"), "KeyError: 'k'"),
        (OSError("disk"), "OSError: disk"),
    ],
)
def test_items_that_cannot_be_read(what: Any, fact: str) -> None:
    with pytest.raises(DataError, match=rf"x failed while batch 2 was read, after 16 of 60 .*{fact}") as caught:
        everything(read(DataLoader(Failing(20, what), batch_size=8)))
    assert "Each item must be a tensor" in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("error", [OptionError("mine"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        everything(read(Failing(20, error)))
    assert caught.value is error


def test_batches_with_other_arguments_or_shapes() -> None:
    x = data(8)
    for batches, fact in (
        ([(x, x), (x,)], r"batch 1 of x must hold the same arguments as batch 0"),
        ([{"x": x, "y": x}, {"x": x}], r"batch 1 of x must hold the same arguments as batch 0"),
        ([x, x[:, :2]], r"batch 1 must have observations of shape \(3,\), like batch 0; got \(2,\)"),
    ):
        with pytest.raises(DataError, match=fact):
            everything(read(DataLoader(Rows(batches), batch_size=None)))


def test_streams_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (loader, rereading):
        monkeypatch.setattr(module, "MOST_OBSERVATIONS", 1000)
    for x in (data(), torch.ones(10, 3)):
        with pytest.raises(DataError, match=r"more than 1000 observations in a pass and has no length.*__len__"):
            everything(read(Passes(lambda x=x: endlessly(x))))
    assert len(everything(read(Stream(data(1000))))) == 1000


def test_random_hostile_data() -> None:
    counts, wrong = fuzz(seconds=1.5)
    assert wrong == {}
    assert counts["refused"] > 10
    assert counts["accepted"] > 10
