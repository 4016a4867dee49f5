"""Observations as streams of batches, from memory and from loaders."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from amortvi.data import TensorObservations, as_observations
from amortvi.data.batch import Batch
from amortvi.errors import DataError, OptionError
from tests.data.forms import ROWS, Rows, Stream, counts, data


def observations(x: Any) -> Any:
    return as_observations(x, torch.float32)


SOURCES = {
    "memory": lambda: data(),
    "data set": lambda: Rows(data()),
    "loader": lambda: DataLoader(Rows(data()), batch_size=8),
    "stream": lambda: Stream(data()),
}


@pytest.mark.parametrize("source", SOURCES)
def test_batches_come_in_order_at_each_pass(source: str) -> None:
    found = observations(SOURCES[source]())
    batch_size = None if source == "loader" else 8
    for _ in range(2):
        batches = list(found.batches(batch_size))
        assert [batch.size for batch in batches] == [8, 8, 8, 8, 5]
        assert torch.equal(Batch.concatenate(batches).args[0], data())
    assert torch.equal(found.as_batch().args[0], data())
    assert torch.equal(found.first(3).args[0], data()[:3])


@pytest.mark.parametrize("source", ["memory", "data set", "shuffling loader"])
def test_shuffled_passes_see_every_observation_in_a_new_order(source: str) -> None:
    sources = {**SOURCES, "shuffling loader": lambda: DataLoader(Rows(data()), batch_size=8, shuffle=True)}
    found = observations(sources[source]())
    batch_size = None if source == "shuffling loader" else 8
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    passes = [Batch.concatenate([m.gather() for m in found.shuffled(batch_size, generator)]).args[0] for _ in range(2)]
    for rows in passes:
        assert torch.equal(rows.sort(0).values, data().sort(0).values)
        assert not torch.equal(rows, data())
    assert not torch.equal(*passes)


def test_a_loader_in_order_is_not_shuffled() -> None:
    found = observations(DataLoader(Rows(data()), batch_size=8))
    rows = [m.gather() for m in found.shuffled(None, torch.Generator())]
    assert torch.equal(Batch.concatenate(rows).args[0], data())


def test_reading_in_order_leaves_the_random_state_untouched() -> None:
    state = torch.get_rng_state()
    for source in SOURCES.values():
        list(observations(source()).batches())
        observations(source()).first(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_and_numbers_of_steps() -> None:
    dropping = DataLoader(Rows(data()), batch_size=5, drop_last=True)
    expected = {
        ROWS: [data(), Rows(data()), DataLoader(Rows(data()), batch_size=5)],
        35: [dropping],
        10: [DataLoader(Rows(data()), sampler=range(10))],
        None: [
            Stream(data()),
            DataLoader(Stream(data()), batch_size=5),
            DataLoader(Rows(data()), batch_sampler=[[0, 1], [2]]),
        ],
    }
    for size, sources in expected.items():
        assert [observations(source).size for source in sources] == [size] * len(sources)
    assert observations(data()).steps(8) == observations(Rows(data())).steps(8) == 5
    assert observations(dropping).steps(None) == 7
    assert observations(Stream(data())).steps(8) is None


def test_a_loader_has_its_own_batch_size() -> None:
    found = observations(DataLoader(Rows(data()), batch_size=5))
    with pytest.raises(OptionError, match="batch_size is set by the DataLoader passed as x"):
        found.steps(8)


@pytest.mark.parametrize("shuffle", [True, False])
def test_results_in_order_need_a_loader_in_order(shuffle: bool) -> None:
    found = observations(DataLoader(Rows(data()), batch_size=5, shuffle=shuffle))
    if shuffle:
        with pytest.raises(DataError, match="x is a DataLoader that shuffles"):
            found.batches()
        assert sum(batch.size for batch in found.in_any_order()) == ROWS
    else:
        assert sum(batch.size for batch in found.batches()) == ROWS


def test_values_that_are_not_finite_are_located_across_batches() -> None:
    x = data()
    x[20, 1] = torch.nan
    for source in (x, Rows(x), DataLoader(Rows(x), batch_size=8)):
        with pytest.raises(DataError, match=r"x has 1 NaN and 0 infinite values, first at \[20, 1\]"):
            list(observations(source).batches())
    with pytest.raises(DataError, match=r"in 1 of \d rows of a shuffled batch"):
        list(observations(DataLoader(Rows(x), batch_size=8, shuffle=True)).in_any_order())


def test_arguments_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"x\[0\] has 37, x\[1\] has 36"):
        observations((data(), counts()[:-1]))
    with pytest.raises(DataError, match=r"x\['a'\] has 37, x\['b'\] has 36"):
        observations({"a": data(), "b": counts()[:-1]})


def test_empty_sources_are_refused() -> None:
    with pytest.raises(DataError, match="x has no observations"):
        observations(Rows([]))

    class Once(IterableDataset[Any]):
        items = iter(data())

        def __iter__(self) -> Any:
            return self.items

    found = observations(DataLoader(Once(), batch_size=8))
    assert found.as_batch().size == ROWS
    with pytest.raises(DataError, match="x gave no observations in this pass"):
        found.as_batch()


def test_memory_on_the_cpu_is_resident() -> None:
    found = observations(TensorDataset(data()))
    assert isinstance(found, TensorObservations)
    assert found.in_memory
    assert found.resident(torch.device("cpu")) is found
