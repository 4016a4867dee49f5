"""Some of the observations, to look at."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from amortvi.data import as_observations
from amortvi.data.selection import some

ROWS = torch.arange(100.0).unsqueeze(-1)


def test_from_memory_they_are_spread_evenly() -> None:
    (found,) = some(as_observations(ROWS, torch.float32), 5).batch.args
    assert found.flatten().tolist() == [0, 25, 50, 74, 99]
    (found,) = some(as_observations(ROWS, torch.float32), 1000).batch.args
    assert torch.equal(found, ROWS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_of_a_loader_the_first_batches(shuffle: bool) -> None:
    loader = DataLoader(TensorDataset(ROWS), batch_size=8, shuffle=shuffle)
    state = torch.get_rng_state()
    (found,) = some(as_observations(loader, torch.float32), 20).batch.args
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found.unique()) == 24
    assert torch.equal(found, ROWS[:24]) is not shuffle
