"""The loop over observations in bounded memory: results keep their order, and chunks fit the limit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from amortvi._util import chunks
from amortvi.data import Batch, Chunk, as_observations, iter_batches, iter_chunks, map_chunks
from amortvi.data.chunks import measure_width
from tests.properties import PROPERTY

CPU = torch.device("cpu")
WIDTH = 6


def double(chunk: Chunk) -> dict[str, torch.Tensor]:
    """Have ``WIDTH`` elements per observation and draw as the largest intermediate result."""
    (x,) = chunk.batch.args
    parts = [x.expand(len(span), *x.shape).repeat(1, 1, WIDTH)[..., :1] * 2 for span in chunk.draw_spans()]
    return {"doubled": torch.cat(parts), "row": torch.tensor([[*chunk.rows]])}


@PROPERTY
@given(
    size=st.integers(1, 20),
    draws=st.integers(1, 9),
    limit=st.integers(1, 200),
    batch_size=st.one_of(st.none(), st.integers(1, 25)),
)
def test_results_do_not_depend_on_chunks(size: int, draws: int, limit: int, batch_size: int | None) -> None:
    x = torch.arange(float(size)).unsqueeze(1)
    source = x if batch_size is None else DataLoader(TensorDataset(x), batch_size=batch_size)
    seen: list[Chunk] = []

    def compute(chunk: Chunk) -> dict[str, torch.Tensor]:
        seen.append(chunk)
        return double(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "NUMBERS_AT_ONCE", limit)
        found = map_chunks(
            as_observations(source, torch.float32), compute, device=CPU, draws=draws, observation_dim=1, probe=double
        )
    assert torch.equal(found["doubled"], (2 * x).expand(draws, size, 1))
    assert found["row"].tolist() == [list(range(size))]
    for chunk in seen:
        assert chunk.batch.size == len(chunk.rows)
        assert [draw for span in chunk.draw_spans() for draw in span] == list(range(draws))
        if limit >= WIDTH:  # one draw of one observation is the least that can be processed
            assert chunk.batch.size * chunk.draws_at_once * WIDTH <= limit


def test_all_draws_of_few_observations_come_before_few_draws_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 12 * WIDTH)
    observations = as_observations(torch.zeros(10, 1), torch.float32)
    sizes = {
        draws: {
            (chunk.batch.size, chunk.draws_at_once)
            for chunk in iter_chunks(observations, double, device=CPU, draws=draws)
        }
        for draws in (1, 4, 100)
    }
    assert sizes == {1: {(10, 1)}, 4: {(3, 4), (1, 4)}, 100: {(1, 12)}}


def test_batches_of_a_loader_are_split_but_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(20.0)
    observations = as_observations(DataLoader(TensorDataset(x), batch_size=8), torch.float32)
    assert [batch.size for batch in iter_batches(observations, 5, CPU)] == [5, 3, 5, 3, 4]
    assert [batch.size for batch in iter_batches(observations, 50, CPU)] == [8, 8, 4]
    assert [batch.size for batch in iter_batches(as_observations(x, torch.float32), 7, CPU)] == [7, 7, 6]


@pytest.mark.parametrize("hidden", [1, 7, 300])
def test_width_is_that_of_the_widest_layer(hidden: int) -> None:
    first, second = torch.nn.Linear(5, hidden), torch.nn.Linear(hidden, 2)
    state = torch.get_rng_state()
    found = measure_width(lambda batch: second(first(*batch.args) + torch.randn(hidden)), Batch((torch.zeros(9, 5),)))
    assert found == max(5, hidden)  # the input counts too
    assert torch.equal(torch.get_rng_state(), state)


def test_width_ignores_results_that_do_not_grow_with_the_observations() -> None:
    weight = torch.zeros(50, 50)
    assert measure_width(lambda batch: batch.args[0] @ weight.mT.clone(), Batch((torch.zeros(1, 50),))) == 50
    assert measure_width(lambda batch: None, Batch((torch.zeros(1),))) == 1
