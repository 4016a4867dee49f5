"""The loop over observations in bounded memory: results keep their order, and chunks fit the limit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from amortvi._util import memory
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
    source = as_observations(x if batch_size is None else DataLoader(TensorDataset(x), batch_size), torch.float32)
    seen: list[Chunk] = []

    def compute(chunk: Chunk) -> dict[str, torch.Tensor]:
        seen.append(chunk)
        return double(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "NUMBERS_AT_ONCE", limit)
        found = map_chunks(source, compute, device=CPU, draws=draws, observation_dim=1, probe=double)
    assert torch.equal(found["doubled"], (2 * x).expand(draws, size, 1))
    assert found["row"].tolist() == [list(range(size))]
    for chunk in seen:
        assert chunk.batch.size == len(chunk.rows)
        assert [draw for span in chunk.draw_spans() for draw in span] == list(range(draws))
        if limit >= WIDTH:  # one draw of one observation is the least that can be processed
            assert chunk.batch.size * chunk.draws_at_once * WIDTH <= limit


def test_all_draws_of_few_observations_come_before_few_draws_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 12 * WIDTH)
    x = as_observations(torch.zeros(10, 1), torch.float32)
    for draws, sizes in ((1, {(10, 1)}), (4, {(3, 4), (1, 4)}), (100, {(1, 12)})):
        found = iter_chunks(x, double, device=CPU, draws=draws)
        assert {(chunk.batch.size, chunk.draws_at_once) for chunk in found} == sizes


def test_batches_of_a_loader_are_split_but_not_merged() -> None:
    x = torch.arange(20.0)
    loader = DataLoader(TensorDataset(x), batch_size=8)
    for source, limit, sizes in ((loader, 5, [5, 3, 5, 3, 4]), (loader, 50, [8, 8, 4]), (x, 7, [7, 7, 6])):
        batches = iter_batches(as_observations(source, torch.float32), limit, CPU)
        assert [batch.size for batch in batches] == sizes


@pytest.mark.parametrize("hidden", [1, 7, 300])
def test_width_is_that_of_the_widest_result_that_grows_with_the_observations(hidden: int) -> None:
    weight, state = torch.zeros(hidden, 5), torch.get_rng_state()
    found = measure_width(lambda batch: batch.args[0] @ weight.mT.clone() + torch.randn(()), Batch((torch.ones(9, 5),)))
    assert found == max(5, hidden)  # the input counts too
    assert torch.equal(torch.get_rng_state(), state)
    assert measure_width(lambda batch: None, Batch((torch.zeros(1),))) == 1
