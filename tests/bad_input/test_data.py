"""Observations that cannot be used: what they are, where they are, and what to do about it."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.masked import masked_tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import amortvi as avi
from amortvi.errors import AmortviError, DataError, EncoderError, ModelError, OptionError
from tests.bad_input.helpers import (
    ROWS,
    Rows,
    assert_same,
    data,
    estimator,
    fit,
    not_finite,
    nothing_changes,
    refused,
    refused_by_fit,
    state_of,
)


def test_number_and_position_of_values_that_are_not_finite(fitted: avi.AmortizedVI) -> None:
    x, facts = not_finite(), ("x has 2 NaN and 1 infinite values", "[7, 1]", "2 rows (7, 9)", "Drop", "poutine.mask")
    for form in (x, x.numpy(), pd.DataFrame(x.double().numpy()), TensorDataset(x)):
        refused_by_fit(fitted, form, DataError, *facts)
    for stream in (Rows(x), DataLoader(TensorDataset(x), batch_size=5)):
        refused_by_fit(fitted, stream, DataError, "x has", "NaN", "infinite", "row", "Drop", "poutine.mask")


def test_position_in_a_later_batch_of_a_loader(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(not_finite()), batch_size=4)
    with refused(DataError, "x has 1 NaN and 0 infinite", "[7, 1]", "1 row (7)", vi=fitted):
        fitted.evaluate(loader, particles=2, seed=0)
    with refused(DataError, "shuffled batch", "Drop", vi=fitted):
        fit(fitted, DataLoader(TensorDataset(not_finite()), batch_size=4, shuffle=True))


@pytest.mark.parametrize("name", ["posterior", "evaluate", "predict", "to_arviz", "refine", "sample_prior"])
def test_every_method_checks_x(name: str, fitted: avi.AmortizedVI) -> None:
    wrong: list[tuple[Any, tuple[str, ...]]] = [
        (not_finite(), ("x has 2 NaN and 1 infinite",)),
        (data(features=4), ("x must have observations of shape (3,)", "training data", "(4,)")),
        ((data(), data()), ("x must hold the same arguments", "x[0] of shape")),
        (data().long(), ("x must hold torch.float32", "torch.int64", "x.to(torch.float32)")),
        (DataLoader(TensorDataset(data()), shuffle=True), ("x is a DataLoader that shuffles", "shuffle=False")),
    ]
    for x, facts in wrong:
        with refused(DataError, *facts, vi=fitted):
            fitted.sample_prior(3, x) if name == "sample_prior" else getattr(fitted, name)(x)


class Bad:
    """An object whose conversion to an array fails."""

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise KeyError("broken")


class NoLength(Dataset[Any]):
    def __getitem__(self, row: int) -> Tensor:
        return data()[row]


def quietly(make: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Return a tensor of a kind of which torch warns that it is experimental or deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*arguments)


NOT_DATA = ("x must be a tensor", "DataLoader")
NOT_NUMBERS = ("x must hold numbers",)
NOT_NUMERIC = ("x must have only numeric columns",)
WRONG_DATA: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no rows": (torch.zeros(0, 3), ("x has no observations", "(0, 3)")),
    "no rows, frame": (pd.DataFrame({"a": []}), ("x has no observations", "(0, 1)")),
    "no columns": (torch.zeros(5, 0), ("x has no elements", "(5, 0)")),
    "empty list": ([], ("x has no observations",)),
    "empty tuple": ((), (*NOT_DATA, "empty tuple")),
    "empty dict": ({}, (*NOT_DATA, "empty dict")),
    "empty data set": (Rows([]), ("x has no observations",)),
    "empty loader": (DataLoader(Rows([])), ("x has no observations",)),
    "loader that drops everything": (DataLoader(Rows(data()), 64, drop_last=True), ("x has no observations",)),
    "scalar": (torch.tensor(3.0), ("x must have one row per observation", "(1, ...)")),
    "number": (3.0, (*NOT_DATA, "float")),
    "none": (None, (*NOT_DATA, "NoneType")),
    "generator": ((row for row in data()), (*NOT_DATA, "generator", "read only once", "torch.stack(list(")),
    "string": ("digits.csv", (*NOT_DATA, "str")),
    "strings": (np.array(["a", "b"]), (*NOT_NUMBERS, "<U1")),
    "objects": (np.array([1, None], dtype=object), (*NOT_NUMBERS, "object", "mask")),
    "dates": (np.array(["2020-01-01"], dtype="M8[D]"), (*NOT_NUMBERS, "datetime64")),
    "complex": (data().numpy() + 1j, (*NOT_NUMBERS, "complex")),
    "complex tensor": (data().to(torch.complex64), ("x must hold real numbers", "complex64", "view_as_real")),
    "double": (data().double(), ("x is a tensor of torch.float64", "torch.float32", "x.to(torch.float32)")),
    "half": (data().half(), ("x is a tensor of torch.float16", "torch.float32")),
    "sparse": (data().to_sparse(), ("x must be a dense tensor", "sparse", "x.to_dense()")),
    "quantized": (
        quietly(torch.quantize_per_tensor, data(), 1.0, 0, torch.qint8),
        ("x must hold plain numbers", "quantized", "x.dequantize()"),
    ),
    "nested": (
        quietly(torch.nested.nested_tensor, [data(2), data(3)]),
        ("x must be a dense tensor", "nested", "avi.pad(x"),
    ),
    "masked tensor": (quietly(masked_tensor, data(), data() > 0), ("x is a masked tensor", "mask")),
    "keys": ({0: data()}, ("the keys of x must be names", "0", "int")),
    "bad object": (Bad(), (*NOT_DATA, "Bad")),
    "bad object in a tuple": ((Bad(),), ("x[0] cannot be read", "broken")),
    "columns of one name": (pd.concat([pd.DataFrame({"a": ["1"]}), pd.DataFrame({"a": [1]})], axis=1), NOT_NUMERIC),
    "no length": (NoLength(), ("x is a Dataset without a length", "__len__")),
    "meta": (data().to("meta"), (*NOT_NUMBERS, "meta")),
    "ragged": ([[1.0, 2.0], [3.0]], ("x cannot be read", "tuple")),
    "too large": (np.full((4, 3), 2**64 - 1, dtype=np.uint64), ("x has integers above", "rescale")),
    "masked": (np.ma.masked_array([1.0], mask=[True]), ("x is a masked array", "x.filled(0)", "poutine.mask")),
    "text column": (pd.DataFrame({"a": [1.0], "b": ["u"]}), (*NOT_NUMERIC, "'b'", "get_dummies")),
    "date column": (pd.DataFrame({"a": pd.date_range("2020", periods=2)}), (*NOT_NUMERIC, "'a' (datetime64")),
    "category column": (pd.DataFrame({"a": pd.Categorical(["u", "v"])}), (*NOT_NUMERIC, "'a' (category)")),
    "category": (pd.Series(pd.Categorical([1, 2])), ("x must be numeric", "get_dummies")),
    "nullable column": (pd.DataFrame({"a": [1.0], "b": pd.array([None], dtype="Int64")}), ("x has 1 NaN", "[0, 1]")),
    "lengths": ((data(), data(5)), ("one row per observation", "x[0] has 40", "x[1] has 5")),
    "lengths by name": ({"x": data(), "y": data(5)}, ("one row per observation", "x['x'] has 40", "x['y'] has 5")),
    "number in a tuple": ((data(), 3), ("x[1] must have one row per observation",)),
    "none in a tuple": ((data(), None), ("x[1] must hold numbers", "NoneType")),
    "strings in a data set": (Rows(["a", "b"]), ("x[0] must hold numbers",)),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_data_that_cannot_be_used(case: str, fitted: avi.AmortizedVI) -> None:
    x, facts = WRONG_DATA[case]
    refused_by_fit(fitted, x, DataError, *facts)
    refused_by_fit(estimator(), x, DataError, *facts)
    with refused(DataError, *facts):
        estimator().setup(x)
    if x is not None:
        with refused(DataError, "validation_data", vi=fitted):
            fit(fitted, data(), validation_data=x)


@pytest.mark.parametrize(
    "bad",
    [
        {"x": not_finite()},
        {"x": DataLoader(TensorDataset(not_finite().double()), batch_size=4), "dtype": torch.float64},
        {"x": data(features=4)},
        {"x": data(), "validation_data": not_finite()},
        {"x": data(), "epochs": 0},
        {"x": data(), "optimizer": lambda parameters, lr: 3},
        {"x": data(), "objective": "iwae", "lr_schedule": lambda optimizer: 3},
    ],
    ids=["not finite", "not finite, later", "shape", "validation data", "option", "optimizer", "schedule"],
)
def test_a_refused_fit_leaves_no_trace(bad: dict[str, Any], fitted: avi.AmortizedVI) -> None:
    """A further fit after a refused one equals a further fit without it."""
    other = copy.deepcopy(fitted)
    with nothing_changes(fitted), pytest.raises(AmortviError):
        fit(fitted, **bad)
    assert_same(*(state_of(fit(vi, data())) for vi in (fitted, other)))


class Once(IterableDataset[Tensor]):
    """A source that can be read only once, by iterating over ``rows`` however often a pass starts."""

    def __init__(self) -> None:
        self.rows = iter(data())

    def __iter__(self) -> Iterator[Tensor]:
        return (row for row in self.rows)


def test_a_source_that_can_be_read_only_once(fitted: avi.AmortizedVI) -> None:
    for make in (
        Once,
        lambda: DataLoader(Once(), batch_size=8),
        lambda: DataLoader(Rows(data()), sampler=iter(range(9))),
    ):
        refused_by_fit(fitted, make(), DataError, "x can be read only once")
        for read in (fitted.posterior, fitted.evaluate, lambda x: avi.compare({"one": fitted}, x)):
            with refused(DataError, "x", "can be read only once", vi=fitted):
                read(make())


@pytest.mark.parametrize("length", [ROWS - 1, ROWS + 1, 2**50])
def test_lengths_that_lie(length: int, fitted: avi.AmortizedVI) -> None:
    class Lying(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(data())

        def __len__(self) -> int:
            return length

    refused_by_fit(fitted, Lying(), DataError, "x gave", f"{ROWS} observations", f"its length is {length}", "__len__")
    with refused(DataError, "x gave", f"{ROWS} observations", f"its length is {length}", "__len__", vi=fitted):
        _ = fitted.posterior(Lying()).mean


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": torch_data.SubsetRandomSampler(range(5))},
        {"sampler": torch_data.WeightedRandomSampler([1.0] * ROWS, ROWS)},
        {"batch_sampler": torch_data.BatchSampler(torch_data.RandomSampler(data()), 5, False)},
    ],
    ids=["subset", "weighted", "batches"],
)
def test_loaders_that_shuffle_through_a_sampler(options: dict[str, Any], fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(data()), **options)
    with refused(DataError, "x is a DataLoader that shuffles", "shuffle=False", vi=fitted):
        fitted.posterior(loader)
    fit(fitted, data(), validation_data=loader)  # their order does not matter


def test_batch_size_and_a_loader(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(data()), batch_size=5)
    refused_by_fit(fitted, loader, OptionError, "batch_size", "DataLoader", "x", batch_size=7)


def test_labels_in_the_data_set() -> None:
    labeled = TensorDataset(data(), torch.ones(ROWS, dtype=torch.long))
    with refused(EncoderError, "MLP failed", "x[1] of shape (40,)", "2 arguments", "labels"):
        fit(estimator(), labeled)

    class First(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            return x

    with refused(ModelError, "the model failed", "x[1]", "2 arguments", "labels"):
        fit(estimator(encoder=First()), labeled)


def test_an_unknown_keyword() -> None:
    with refused(ModelError, "the model failed on x['y']", "unexpected keyword argument 'y'"):
        fit(estimator(), {"y": data()})


VALIDATION: dict[str, tuple[Any, tuple[str, ...]]] = {
    "shape": (data(features=4), ("validation_data must have observations of shape (3,)", "x", "(4,)")),
    "structure": ((data(), data()), ("validation_data must hold the same arguments as x", "validation_data[0]")),
    "names": ({"x": data()}, ("validation_data must hold the same arguments as x", "validation_data['x']")),
    "integers": (data().long(), ("validation_data must hold torch.float32", "torch.int64")),
    "not finite": (not_finite(), ("validation_data has 2 NaN and 1 infinite", "[7, 1]")),
    "not finite, data set": (Rows(not_finite()), ("validation_data has 2 NaN and 1 infinite", "[7, 1]")),
    "not finite, later batch": (DataLoader(Rows(not_finite()), 4), ("validation_data has 1 NaN", "[7, 1]")),
}


@pytest.mark.parametrize("case", VALIDATION)
def test_validation_data(case: str, fitted: avi.AmortizedVI) -> None:
    x, facts = VALIDATION[case]
    refused_by_fit(fitted, data(), DataError, *facts, validation_data=x)
