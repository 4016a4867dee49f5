"""Batches: selecting, repeating and describing the arguments of one call."""

import pytest
import torch

from amortvi.data import Batch
from amortvi.errors import DataError

X, Y = torch.arange(12.0).reshape(4, 3), torch.arange(4)
BATCH = Batch((X,), {"y": Y}, context=10 * X)


def assert_equal(one: Batch, other: Batch) -> None:
    assert len(one.args) == len(other.args)
    assert one.kwargs.keys() == other.kwargs.keys()
    pairs = zip(one.tensors(), other.tensors(), strict=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert (one.context is None) == (other.context is None)
    assert one.context is None or torch.equal(one.context, other.context)


def test_size_and_tensors() -> None:
    assert BATCH.size == 4
    assert BATCH.device == torch.device("cpu")
    assert [tensor.shape for tensor in BATCH.tensors()] == [(4, 3), (4,)]


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2])], ids=["slice", "positions"])
def test_take_selects_rows_of_every_tensor(rows: slice | torch.Tensor) -> None:
    assert_equal(BATCH.take(rows), Batch((X[1:3],), {"y": Y[1:3]}, 10 * X[1:3]))


def test_repeat_puts_one_copy_after_the_other() -> None:
    repeated = BATCH.repeat(3)
    assert repeated.kwargs["y"].tolist() == [*range(4)] * 3
    assert_equal(repeated.take(slice(4, 8)), BATCH)
    assert BATCH.repeat(1) is BATCH


def test_concatenate_inverts_take() -> None:
    parts = [BATCH.take(slice(0, 1)), BATCH.take(slice(1, 4))]
    assert_equal(Batch.concatenate(parts), BATCH)
    assert Batch.concatenate([part.arguments() for part in parts]).context is None


def test_arguments_omit_the_context() -> None:
    assert_equal(BATCH.arguments(), Batch((X,), {"y": Y}))


def test_names_are_the_expressions_of_the_user() -> None:
    assert [name for name, _ in Batch((X,)).named()] == ["x"]
    assert [name for name, _ in Batch((X, Y)).named("data")] == ["data[0]", "data[1]"]
    assert [name for name, _ in BATCH.named()] == ["x[0]", "x['y']"]
    assert BATCH.describe() == "x[0] of shape (4, 3) and torch.float32, x['y'] of shape (4,) and torch.int64"


def test_hint_only_for_several_arguments() -> None:
    assert Batch((X,)).hint() == ""
    assert "2 arguments" in Batch((X, Y)).hint()


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
    batch = Batch((), {"a": X, "b": Y})
    batch.check_compatible(Batch((), {"b": Y[:1].int(), "a": X[:1].double()}), "z", "x")
