"""Whether a result for a row depends on the other rows, for computations of every kind."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from amortvi.errors import ModelError
from amortvi.model.row_independence import find_mixed_row, some_rows

X = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))


def found(function: Callable[[Tensor], Tensor], observations: int = 100) -> str | None:
    mixed = find_mixed_row(lambda rows: {"good": X[rows], "result": function(X[rows])}, some_rows(observations))
    return None if mixed is None else mixed.name


def test_rows_are_spaced_evenly() -> None:
    assert some_rows(1).tolist() == [0]
    assert some_rows(5).tolist() == [0, 1, 2, 3, 4]
    rows = some_rows(10**9)
    assert len(rows) == 16
    assert (int(rows[0]), int(rows[-1])) == (0, 10**9 - 1)
    assert rows.diff().unique().numel() <= 2


def test_the_difference_is_reported() -> None:
    mixed = find_mixed_row(lambda rows: {"sum": X[rows].sum(0).expand(len(rows), 3)}, some_rows(100))
    assert mixed is not None
    rows = some_rows(100)
    element = int((X[rows].sum(0) - 16 * X[99]).abs().argmax())
    assert (mixed.name, mixed.row, mixed.size) == ("sum", 99, 16)
    assert mixed.within == pytest.approx(float(X[rows].sum(0)[element]))
    assert mixed.alone == pytest.approx(float(16 * X[99, element]))


def test_one_row_cannot_be_mixed() -> None:
    assert found(lambda x: x - x.mean(0), observations=1) is None


def test_scalars_may_depend_on_the_size_of_the_batch_alone() -> None:
    assert found(lambda x: torch.tensor(float(len(x)))) is None
    assert found(lambda x: x.sum()) == "result"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_results_that_are_not_finite(value: float) -> None:
    assert found(lambda x: torch.where(x > 0, value, x)) is None
    assert found(lambda x: torch.where(x > x.mean(0), value, x)) == "result"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_precision(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    assert found(lambda x: (x @ weight).to(dtype).tanh()) is None
    assert found(lambda x: ((x - x.mean(0)) @ weight).to(dtype).tanh()) == "result"


def test_a_computation_for_one_size_is_not_judged() -> None:
    def compute(rows: Tensor) -> dict[str, Tensor]:
        if len(rows) != 16:
            raise ModelError("another size")
        return {"result": X[rows].cumsum(0)}

    assert find_mixed_row(compute, some_rows(100)) is None


def test_known_results_that_are_random_are_not_judged() -> None:
    def compute(rows: Tensor) -> dict[str, Tensor]:
        return {"noise": torch.randn(len(rows), 3), "result": X[rows]}

    rows = torch.arange(100)
    assert find_mixed_row(compute, rows, whole=compute(rows)) is None
    assert find_mixed_row(compute, rows) is None


def test_the_random_state_is_left_untouched() -> None:
    before = torch.get_rng_state()
    assert found(lambda x: x.mean(0) + torch.randn_like(x)) == "result"
    assert torch.equal(torch.get_rng_state(), before)
