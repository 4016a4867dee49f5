"""Conversion of tensors, arrays and frames to tensors, and the checks on the way."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from amortvi.data import as_observations
from amortvi.data.convert import check_finite, to_tensor
from amortvi.errors import DataError


def convert(value: Any, dtype: torch.dtype = torch.float32, **options: Any) -> torch.Tensor:
    return to_tensor("arg", value, dtype, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_are_cast_but_tensors_are_not(dtype: torch.dtype) -> None:
    for value in (np.zeros(3), np.zeros(3, np.float32), [0.0, 1.0], pd.Series([0.5])):
        assert convert(value, dtype).dtype == dtype
    tensor = torch.zeros(3, dtype=torch.float16)
    with pytest.raises(DataError, match=rf"arg is a tensor of torch.float16, but model and encoder work in {dtype}"):
        convert(tensor, dtype)
    assert convert(tensor, dtype, collated=True).dtype == dtype


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool", "uint16", "uint32", "uint64"])
def test_integers_stay_integers(kind: str) -> None:
    array = np.array([0, 1, 1, 0]).astype(kind)
    for value in (array, pd.DataFrame({"y": array}), pd.Series(array), array.tolist()):
        found = convert(value)
        assert not found.is_floating_point()
        assert found.flatten().tolist() == array.tolist()


def test_frames_with_columns_of_different_kinds() -> None:
    columns = {"whole": [1, 2, 3], "real": [0.5, 1.5, 2.5], "flag": [True, False, True]}
    expected = torch.tensor([[1.0, 0.5, 1.0], [2.0, 1.5, 0.0], [3.0, 2.5, 1.0]])
    nullable = pd.DataFrame(columns).astype({"whole": "Int64", "real": "Float32", "flag": "boolean"})
    for frame in (pd.DataFrame(columns), nullable):
        assert torch.equal(convert(frame), expected)
    assert convert(nullable[["flag"]]).dtype == torch.bool
    assert convert(nullable[["whole", "flag"]]).tolist() == [[1, 1], [2, 0], [3, 1]]
    assert convert(nullable["whole"]).tolist() == [1, 2, 3]


def test_data_are_copied_only_if_necessary() -> None:
    array, tensor = np.zeros((5, 2), dtype=np.float32), torch.zeros(5)
    assert convert(array).data_ptr() == array.ctypes.data
    assert convert(tensor).data_ptr() == tensor.data_ptr()


def test_values_that_are_not_finite_are_located() -> None:
    x = torch.zeros(10, 2)
    for finite in (x, torch.arange(3), torch.full((10,), 3e38)):  # the last one has an infinite sum
        check_finite("arg", finite)
    x[7, 1], x[9, 0] = torch.nan, -torch.inf
    with pytest.raises(DataError, match=r"arg has 1 NaN and 1 infinite values, first at \[7, 1\], in 2 rows \(7, 9\)"):
        check_finite("arg", x)
    with pytest.raises(DataError, match=r"first at \[107, 1\], in 2 rows \(107, 109\)"):
        check_finite("arg", x, first_row=100)
    with pytest.raises(DataError, match="in 2 of 10 rows of a shuffled batch"):
        check_finite("arg", x, first_row=None)


def test_tensors_of_unusual_kinds() -> None:
    for kind in (torch.uint16, torch.uint32, torch.uint64):
        assert torch.equal(convert(torch.tensor([1, 2], dtype=kind)), torch.tensor([1, 2]))
    with pytest.raises(DataError, match=r"arg has integers above 2\*\*63 - 1"):
        convert(torch.tensor([2**63], dtype=torch.uint64))
    with torch.inference_mode():
        inference = torch.ones(3)
    found = convert(inference)
    (found * torch.ones(3, requires_grad=True)).sum().backward()  # which an inference tensor does not allow
    assert convert(torch.nn.Parameter(torch.ones(3))).requires_grad is False


def test_a_tensor_data_set_with_items_of_its_own() -> None:
    class Doubled(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return tuple(2 * value for value in super().__getitem__(index))

    found = as_observations(Doubled(torch.ones(3, 2)), torch.float32)
    assert torch.equal(found.as_batch().args[0], torch.full((3, 2), 2.0))
