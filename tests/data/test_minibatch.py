"""Minibatches that have not been gathered yet."""

import torch

from amortvi.data import Batch, Minibatch

SOURCE = Batch((torch.arange(10.0),), {"y": torch.arange(10)})
ROWS = torch.tensor([7, 2, 2])


def test_gather() -> None:
    minibatch = Minibatch(SOURCE, ROWS)
    assert minibatch.size == 3
    assert minibatch.gather().kwargs["y"].tolist() == [7, 2, 2]
    assert Minibatch(SOURCE).size == 10
    assert Minibatch(SOURCE).gather() is SOURCE


def test_replace_inverts_tensors() -> None:
    for minibatch in (Minibatch(SOURCE), Minibatch(SOURCE, ROWS)):
        again = minibatch.replace(minibatch.tensors())
        assert all(torch.equal(a, b) for a, b in zip(again.tensors(), minibatch.tensors(), strict=True))
        assert again.gather().kwargs["y"].tolist() == minibatch.gather().kwargs["y"].tolist()


def test_shared_tensors_are_those_of_the_source() -> None:
    assert Minibatch(SOURCE, ROWS).num_shared == 2
    assert Minibatch(SOURCE).num_shared == 0


def test_moving_to_the_same_device_changes_nothing() -> None:
    minibatch = Minibatch(SOURCE, ROWS)
    assert minibatch.to(torch.device("cpu")) is minibatch


def test_bootstrap_draws_as_many_observations_with_replacement() -> None:
    torch.manual_seed(0)
    for minibatch in (Minibatch(SOURCE), Minibatch(SOURCE, torch.arange(3, 9))):
        found = torch.cat([minibatch.bootstrap().gather().kwargs["y"] for _ in range(200)])
        assert len(found) == 200 * minibatch.size
        counts = torch.bincount(found, minlength=10)[minibatch.gather().kwargs["y"]]
        assert counts.sum() == len(found)
        # Each observation is drawn 200 times on average, with a standard deviation of at most sqrt(200).
        assert (counts - 200).abs().max() < 5 * 200**0.5
