"""Selecting some of the observations."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from amortvi.data import as_observations
from amortvi.data.selection import evenly_spaced, positions, subset
from amortvi.errors import DataError
from tests.properties import PROPERTY

ROWS = torch.arange(100.0).unsqueeze(-1)


@PROPERTY
@given(count=st.integers(1, 12), data=st.data())
def test_positions_select_like_numpy(count: int, data: st.DataObject) -> None:
    rows: Any = data.draw(
        st.one_of(
            st.lists(st.integers(-count, count - 1), min_size=1, max_size=6),
            st.lists(st.booleans(), min_size=count, max_size=count),
            st.slices(count),
            st.integers(-count, count - 1),
        )
    )
    expected = np.atleast_1d(np.arange(count)[rows])
    for kind in [rows] if isinstance(rows, slice | int) else [rows, np.array(rows), torch.tensor(rows)]:
        if len(expected):
            assert positions(kind, count).tolist() == expected.tolist()
        else:
            with pytest.raises(DataError, match="rows selects no observations"):
                positions(kind, count)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, -51], r"rows must be positions from -50 to 49; got -51\."),
        ([True, False], r"rows is a mask with 2 entries, but there are 50 observations\."),
        ([0.5], r"rows must be integer positions, a slice or a boolean mask; got an array of float64"),
        ([[0, 1]], r"rows must be integer positions, a slice or a boolean mask; got .* of shape \(1, 2\)"),
    ],
)
def test_invalid_rows(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        positions(rows, 50)


def test_subset_of_memory_and_loader() -> None:
    rows = [3, 3, 99, 0, 3, 42]
    frame = pd.DataFrame(ROWS.numpy(), index=[f"row {i}" for i in range(100)])
    for source in (frame, DataLoader(TensorDataset(ROWS), batch_size=8)):
        found = subset(as_observations(source, torch.float32), np.array(rows))
        assert found.batch.args[0].flatten().tolist() == rows
        assert found.index is None or list(found.index) == [f"row {row}" for row in rows]


def test_observations_in_memory_are_selected_at_even_spacing() -> None:
    for count, rows in ((5, [0, 25, 50, 74, 99]), (1000, list(range(100)))):
        (found,) = evenly_spaced(as_observations(ROWS, torch.float32), count).batch.args
        assert found.flatten().tolist() == rows


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_first_batches_of_a_loader_are_selected(shuffle: bool) -> None:
    loader = DataLoader(TensorDataset(ROWS), batch_size=8, shuffle=shuffle)
    state = torch.get_rng_state()
    (found,) = evenly_spaced(as_observations(loader, torch.float32), 20).batch.args
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found.unique()) == 24
    assert torch.equal(found, ROWS[:24]) is not shuffle
