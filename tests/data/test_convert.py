"""Conversion of tensors, arrays and frames to tensors, and the checks on the way."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from amortvi.data.convert import check_finite, to_tensor
from amortvi.errors import DataError


def convert(value: Any, dtype: torch.dtype = torch.float32, **options: Any) -> torch.Tensor:
    return to_tensor("arg", value, dtype, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_are_cast_but_tensors_are_not(dtype: torch.dtype) -> None:
    other = torch.float64 if dtype == torch.float32 else torch.float32
    for value in (np.zeros(3), np.zeros(3, np.float32), [0.0, 1.0], pd.Series([0.5])):
        assert convert(value, dtype).dtype == dtype
    tensor = torch.zeros(3, dtype=other)
    with pytest.raises(DataError, match=rf"arg is a tensor of {other}, but model and encoder work in {dtype}"):
        convert(tensor, dtype)
    assert convert(tensor, dtype, collated=True).dtype == dtype


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool"])
def test_integers_stay_integers(kind: str) -> None:
    array = np.array([0, 1, 1, 0]).astype(kind)
    for value in (array, pd.DataFrame({"y": array}), pd.Series(array), torch.from_numpy(array), array.tolist()):
        found = convert(value)
        assert not found.is_floating_point()
        assert found.flatten().tolist() == array.tolist()


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_unsigned_integers_become_int64(kind: str) -> None:
    assert convert(np.array([0, 65535], dtype=kind)).tolist() == [0, 65535]
    if kind == "uint64":
        with pytest.raises(DataError, match=r"arg has integers above 2\*\*63 - 1"):
            convert(np.array([2**63], dtype=kind))


def test_frames_with_columns_of_different_kinds() -> None:
    columns = {"whole": [1, 2, 3], "real": [0.5, 1.5, 2.5], "flag": [True, False, True]}
    expected = torch.tensor([[1.0, 0.5, 1.0], [2.0, 1.5, 0.0], [3.0, 2.5, 1.0]])
    nullable = pd.DataFrame(columns).astype({"whole": "Int64", "real": "Float32", "flag": "boolean"})
    for frame in (pd.DataFrame(columns), nullable):
        assert torch.equal(convert(frame), expected)
    assert convert(nullable[["flag"]]).dtype == torch.bool
    assert convert(nullable[["whole", "flag"]]).tolist() == [[1, 1], [2, 0], [3, 1]]
    assert convert(nullable["whole"]).tolist() == [1, 2, 3]


def test_missing_values_of_nullable_types_become_nan() -> None:
    found = convert(pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}))
    assert found[0] == 1
    assert found[1].isnan()


def test_data_are_copied_only_if_necessary() -> None:
    array = np.zeros((5, 2), dtype=np.float32)
    assert convert(array).data_ptr() == array.ctypes.data
    tensor = torch.zeros(5)
    assert convert(tensor).data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor(1.0), "one row per observation; got a single number"),
        (torch.zeros(0, 3), "no observations"),
        (torch.zeros(3, 0), "no elements"),
        (torch.zeros(3, dtype=torch.complex64), "real numbers"),
        (torch.zeros(3, 3).to_sparse(), "dense tensor"),
        (torch.zeros(3, device="meta"), "meta"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "masked array"),
        (np.array(["a", "b"]), "must hold numbers"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "must hold numbers"),
        ([[1.0], [1.0, 2.0]], "one array of numbers"),
        (pd.DataFrame({"a": [1.0], "b": ["text"]}), "numeric columns; got 'b'"),
        (pd.Series(["text"]), "must be numeric"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_unusable_values_are_refused(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"^arg .*{message}"):
        convert(value)


def test_values_that_are_not_finite_are_located() -> None:
    x = torch.zeros(10, 2)
    check_finite("arg", x)
    check_finite("arg", torch.arange(3))
    x[7, 1], x[9, 0] = torch.nan, -torch.inf
    with pytest.raises(DataError, match=r"arg has 1 NaN and 1 infinite values, first at \[7, 1\], in 2 rows \(7, 9\)"):
        check_finite("arg", x)
    with pytest.raises(DataError, match=r"first at \[107, 1\], in 2 rows \(107, 109\)"):
        check_finite("arg", x, first_row=100)
    with pytest.raises(DataError, match="in 2 of 10 rows of a shuffled batch"):
        check_finite("arg", x, first_row=None)


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    check_finite("arg", torch.full((10,), 3e38))
