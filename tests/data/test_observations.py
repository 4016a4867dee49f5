"""Observations as streams of batches, from memory and from loaders."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from amortvi.data import Batch, Observations, as_observations
from amortvi.errors import DataError, OptionError
from tests.data.forms import ROWS, Rows, Stream, data


def observations(x: Any) -> Any:
    return as_observations(x, torch.float32)


SOURCES = {
    "memory": lambda: data(),
    "data set": lambda: Rows(data()),
    "loader": lambda: DataLoader(Rows(data()), batch_size=8),
    "stream": lambda: Stream(data()),
    "shuffling loader": lambda: DataLoader(Rows(data()), batch_size=8, shuffle=True),
}


@pytest.mark.parametrize("source", ["memory", "data set", "loader", "stream"])
def test_batches_come_in_order_at_each_pass(source: str) -> None:
    found, state = observations(SOURCES[source]()), torch.get_rng_state()
    for _ in range(2):
        batches = list(found.batches(None if source == "loader" else 8))
        assert [batch.size for batch in batches] == [8, 8, 8, 8, 5]
        assert torch.equal(Batch.concatenate(batches).args[0], data())
    assert torch.equal(found.as_batch().args[0], data())
    assert torch.equal(found.first(3).args[0], data()[:3])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("source", ["memory", "data set", "shuffling loader", "loader"])
def test_shuffled_passes_see_every_observation_in_a_new_order(source: str) -> None:
    found, in_order = observations(SOURCES[source]()), source == "loader"  # a loader in order is not shuffled
    torch.manual_seed(0)
    generator, batch_size = torch.Generator().manual_seed(0), None if "loader" in source else 8
    passes = [Batch.concatenate([m.gather() for m in found.shuffled(batch_size, generator)]).args[0] for _ in range(2)]
    for rows in passes:
        assert torch.equal(rows.sort(0).values, data().sort(0).values)
        assert torch.equal(rows, data()) is in_order
    assert torch.equal(*passes) is in_order


@pytest.mark.parametrize(
    ("make", "size", "steps"),
    [
        (data, ROWS, 5),
        (lambda: Rows(data()), ROWS, 5),
        (lambda: DataLoader(Rows(data()), batch_size=5), ROWS, 8),
        (lambda: DataLoader(Rows(data()), batch_size=5, drop_last=True), 35, 7),
        (lambda: DataLoader(Rows(data()), batch_size=5, sampler=range(10)), 10, 2),
        (lambda: DataLoader(Rows(data()), batch_sampler=[[0, 1], [2]]), None, 2),
        (lambda: DataLoader(Stream(data()), batch_size=5), None, None),
        (lambda: Stream(data()), None, None),
    ],
)
def test_sizes_and_numbers_of_steps(make: Any, size: int | None, steps: int | None) -> None:
    found, has_own = observations(make()), isinstance(make(), DataLoader)
    assert (found.size, found.steps(None if has_own else 8)) == (size, steps)
    if has_own:
        with pytest.raises(OptionError, match="batch_size is set by the DataLoader passed as x"):
            found.steps(8)


def in_any_order(found: Observations) -> Tensor:
    return Batch.concatenate(list(found.in_any_order())).args[0]


@pytest.mark.parametrize("kind", ["loader", "sampler", "both"])
def test_generators_of_a_loader_are_saved_and_restored(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = RandomSampler(range(ROWS), generator=torch.Generator().manual_seed(1))
    options: dict[str, dict[str, Any]] = {
        "loader": {"generator": generator, "shuffle": True},
        "sampler": {"sampler": sampler},
        "both": {"generator": generator, "sampler": sampler},
    }
    state = generator.get_state()
    found = observations(DataLoader(Rows(data()), batch_size=8, **options[kind]))
    found.first(1)
    found.fingerprint()
    assert torch.equal(generator.get_state(), state)
    states = found.random_state()
    assert len(states) == (2 if kind == "both" else 1)
    first = in_any_order(found)
    assert not torch.equal(in_any_order(found), first)
    found.restore_random_state(states)
    assert torch.equal(in_any_order(found), first)
    for other, given in ((found, []), (observations(data()), states)):
        with pytest.raises(DataError, match=r"x must .* generators as when their states were saved"):
            other.restore_random_state(given)
    assert observations(data()).random_state() == []
    observations(data()).restore_random_state([])


def test_fingerprints_identify_data() -> None:
    x = data()
    same = [x, x.numpy(), x.double().numpy(), x.clone(), x.T.contiguous().T, (x,)]
    changed = x.clone()
    changed[-1, -1] += 1e-6
    others = [changed, x[:-1], x.reshape(-1, 1), (x, x), {"x": x}, x.long(), x.bool(), x[torch.randperm(ROWS)]]
    assert len({observations(each).fingerprint() for each in same}) == 1
    assert len({observations(each).fingerprint() for each in [x, *others]}) == 1 + len(others)
    half = as_observations(x.bfloat16(), torch.bfloat16)
    assert half.fingerprint() == as_observations(x.bfloat16(), torch.bfloat16).fingerprint()
    makers = [Rows, Stream, partial(DataLoader, batch_size=8), partial(DataLoader, batch_size=8, shuffle=True)]
    for make in makers[:3]:
        found = [
            observations(make(Rows(each) if make is makers[2] else each)).fingerprint()
            for each in (x, x, changed[:: -1 and 1] * 2)
        ]
        assert found[0] == found[1] != found[2]
    assert observations(makers[3](Rows(x))).fingerprint() == observations(makers[3](Rows(x))).fingerprint()


@pytest.mark.parametrize("source", ["memory", "data set"])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_divide_the_same_minibatches(source: str, count: int) -> None:
    def passes(found: Any) -> list[Any]:
        return [*found.shuffled(9, torch.Generator().manual_seed(5)), *found.minibatches()]

    whole = passes(observations(SOURCES[source]()))
    parts = [passes(observations(SOURCES[source]()).divided(rank, count)) for rank in range(count)]
    for expected, *shares in zip(whole, *parts, strict=True):
        assert {share.size for share in shares} == {expected.size}
        own = [share.gather() for share in shares]
        assert all(
            batch.size == len(range(expected.size)[share.share.rows]) for batch, share in zip(own, shares, strict=True)
        )
        weighted = [batch for batch, share in zip(own, shares, strict=True) if share.share.weight]
        assert torch.equal(Batch.concatenate(weighted).args[0], expected.gather().args[0])


@pytest.mark.parametrize("source", ["loader", "stream"])
def test_what_is_not_read_by_position_cannot_be_divided(source: str) -> None:
    found = observations(SOURCES[source]())
    assert found.divided(0, 1) is found
    with pytest.raises(DataError, match="divided among 2 processes"):
        found.divided(0, 2)
