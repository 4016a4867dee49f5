"""Batches and minibatches: selecting, repeating and describing the arguments of one call."""

import pytest
import torch

from amortvi.data import Batch, Minibatch
from amortvi.errors import DataError

X, Y = torch.arange(12.0).reshape(4, 3), torch.arange(4)
BATCH = Batch((X,), {"y": Y}, context=10 * X)
TEN, ROWS = Batch((torch.arange(10.0),), {"y": torch.arange(10)}), torch.tensor([7, 2, 2])


def assert_equal(one: Batch, other: Batch) -> None:
    torch.testing.assert_close(vars(one), vars(other), rtol=0, atol=0)


def test_take_selects_rows_of_every_tensor() -> None:
    for rows in (slice(1, 3), torch.tensor([1, 2])):
        assert_equal(BATCH.take(rows), Batch((X[1:3],), {"y": Y[1:3]}, 10 * X[1:3]))


def test_repeat_puts_one_copy_after_the_other() -> None:
    repeated = BATCH.repeat(3)
    assert (BATCH.size, repeated.size) == (4, 12)
    assert repeated.kwargs["y"].tolist() == [*range(4)] * 3
    assert_equal(repeated.take(slice(4, 8)), BATCH)


def test_concatenate_inverts_take() -> None:
    parts = [BATCH.take(slice(0, 1)), BATCH.take(slice(1, 4))]
    assert_equal(Batch.concatenate(parts), BATCH)
    assert_equal(Batch.concatenate([part.arguments() for part in parts]), Batch((X,), {"y": Y}))


def test_names_are_the_expressions_of_the_user() -> None:
    assert [name for name, _ in Batch((X,)).named()] == ["x"]
    assert [name for name, _ in Batch((X, Y)).named("data")] == ["data[0]", "data[1]"]
    assert BATCH.describe() == "x[0] of shape (4, 3) and torch.float32, x['y'] of shape (4,) and torch.int64"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Batch((X,)), r"z must hold the same arguments as x"),
        (Batch((X,), {"w": Y}), r"z must hold the same arguments as x"),
        (Batch((X[:, :2],), {"y": Y}), r"z\[0\] must have observations of shape \(3,\), like x\[0\]; got \(2,\)"),
        (Batch((X,), {"y": Y.float()}), r"z\['y'\] must hold torch.int64, like x\['y'\]; got torch.float32"),
    ],
)
def test_incompatible_batches_are_refused(other: Batch, message: str) -> None:
    with pytest.raises(DataError, match=message):
        BATCH.check_compatible(other, "z", "x")


def test_compatible_batches_may_differ_in_size_order_and_precision() -> None:
    other = Batch((), {"b": Y[:1].int(), "a": X[:1].double()})
    Batch((), {"a": X, "b": Y}).check_compatible(other, "z", "x")


def test_minibatches_gather_their_rows() -> None:
    for rows, shared, expected in ((None, 0, TEN), (ROWS, 2, TEN.take(ROWS))):
        minibatch = Minibatch(TEN, rows)
        assert (minibatch.size, minibatch.num_shared) == (expected.size, shared)
        assert_equal(minibatch.gather(), expected)
        assert_equal(minibatch.replace(minibatch.tensors()).gather(), expected)


def test_bootstrap_draws_as_many_observations_with_replacement() -> None:
    torch.manual_seed(0)
    for minibatch in (Minibatch(TEN), Minibatch(TEN, torch.arange(3, 9))):
        found = torch.cat([minibatch.bootstrap().gather().kwargs["y"] for _ in range(200)])
        counts = torch.bincount(found, minlength=10)[minibatch.gather().kwargs["y"]]
        assert counts.sum() == len(found) == 200 * minibatch.size
        # Each observation is drawn 200 times on average, with a standard deviation of at most sqrt(200).
        assert (counts - 200).abs().max() < 5 * 200**0.5
