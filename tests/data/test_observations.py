"""Observations as streams of batches, from memory and from loaders."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from amortvi.data import Batch, as_observations
from amortvi.errors import OptionError
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
