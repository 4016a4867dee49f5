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
    everything = np.arange(count)
    rows: Any = data.draw(
        st.one_of(
            st.lists(st.integers(-count, count - 1), min_size=1, max_size=6),
            st.lists(st.booleans(), min_size=count, max_size=count),
            st.slices(count),
            st.integers(-count, count - 1),
        )
    )
    expected = np.atleast_1d(everything[rows])
    kinds = [rows] if isinstance(rows, slice | int) else [rows, np.array(rows), torch.tensor(rows)]
    for kind in kinds:
        if not len(expected):
            with pytest.raises(DataError, match="rows selects no observations"):
                positions(kind, count)
        else:
            assert positions(kind, count).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([50], r"rows must be positions from -50 to 49; got 50\."),
        ([0, -51], r"rows must be positions from -50 to 49; got -51\."),
        ([True, False], r"rows is a mask with 2 entries, but there are 50 observations\."),
        ([], r"rows selects no observations\."),
        (slice(5, 5), r"rows selects no observations\."),
        (np.zeros(50, dtype=bool), r"rows selects no observations\."),
        ([0.5], r"rows must be integer positions, a slice or a boolean mask; got an array of float64"),
        ([[0, 1]], r"rows must be integer positions, a slice or a boolean mask; got .* of shape \(1, 2\)"),
    ],
)
def test_invalid_rows(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        positions(rows, 50)


@pytest.mark.parametrize("rows", [[9, 3], [3, 3, 99, 0, 3], [42]])
def test_subset_of_memory_and_loader(rows: list[int]) -> None:
    loader = DataLoader(TensorDataset(ROWS), batch_size=8)
    for source in (ROWS, loader):
        found = subset(as_observations(source, torch.float32), np.array(rows))
        assert found.batch.args[0].flatten().tolist() == rows


def test_subset_keeps_the_labels() -> None:
    frame = pd.DataFrame(ROWS.numpy(), index=[f"row {i}" for i in range(100)])
    found = subset(as_observations(frame, torch.float32), np.array([9, 3]))
    assert list(found.index) == ["row 9", "row 3"]


def test_observations_in_memory_are_selected_at_even_spacing() -> None:
    (found,) = evenly_spaced(as_observations(ROWS, torch.float32), 5).batch.args
    assert found.flatten().tolist() == [0, 25, 50, 74, 99]
    (found,) = evenly_spaced(as_observations(ROWS, torch.float32), 1000).batch.args
    assert torch.equal(found, ROWS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_first_batches_of_a_loader_are_selected(shuffle: bool) -> None:
    loader = DataLoader(TensorDataset(ROWS), batch_size=8, shuffle=shuffle)
    state = torch.get_rng_state()
    (found,) = evenly_spaced(as_observations(loader, torch.float32), 20).batch.args
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found.unique()) == 24
    assert torch.equal(found, ROWS[:24]) is not shuffle
