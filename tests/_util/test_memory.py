"""Sizes of chunks, and the collection of their results."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amortvi._util import memory
from amortvi._util.memory import Gathered, rows_at_once, spans
from tests.properties import PROPERTY


@PROPERTY
@given(total=st.integers(0, 30), step=st.integers(1, 35))
def test_spans_partition_the_range(total: int, step: int) -> None:
    parts = list(spans(total, step))
    assert [i for part in parts for i in part] == list(range(total))
    assert all(len(part) == step for part in parts[:-1])


def test_rows_at_once_fit_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 100)
    assert [rows_at_once(width) for width in (0, 1, 30, 100, 101, 10**9)] == [100, 100, 3, 1, 1, 1]


@PROPERTY
@given(
    parts=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    dim=st.integers(0, 2),
    surplus=st.sampled_from([None, 0, 5]),
)
def test_gathered_is_the_concatenation(parts: list[int], dim: int, surplus: int | None) -> None:
    shape = [2, 3, 4]
    values = [torch.rand(*shape[:dim], part, *shape[dim + 1 :], requires_grad=True) for part in parts]
    gathered = Gathered(None if surplus is None else sum(parts) + surplus, dim)
    for value in values:
        gathered.add({"a": value, "b": (10 * value).long()})
    found = gathered.result()
    assert torch.equal(found["a"], torch.cat(values, dim))
    assert torch.equal(found["b"], (10 * torch.cat(values, dim)).long())
    assert found["a"].is_contiguous()
    assert not found["a"].requires_grad
