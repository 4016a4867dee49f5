"""Observations that cannot be used: what they are, where they are, and what to do about it."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import amortvi as avi
from amortvi.errors import (
    AmortviError,
    DataError,
    EncoderError,
    ModelError,
    NotFittedError,
    OptionError,
)
from tests.bad_input.helpers import (
    ROWS,
    Rows,
    check_refused_by_fit,
    data,
    estimator,
    fit,
    not_finite,
    nothing_changes,
    refused,
    state_of,
)

NOT_FINITE: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "numpy": lambda x: x.numpy(),
    "frame": lambda x: pd.DataFrame(x.numpy().astype(np.float64)),
    "tensor data set": TensorDataset,
    "data set": Rows,
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=5),
}


@pytest.mark.parametrize("form", NOT_FINITE)
def test_number_and_position_of_values_that_are_not_finite(form: str, fitted: avi.AmortizedVI) -> None:
    facts: tuple[str, ...] = ("x has 2 NaN and 1 infinite values", "[7, 1]", "2 rows (7, 9)", "Drop", "poutine.mask")
    if form in ("data set", "loader"):  # read batch by batch; fit shuffles a data set, so no row can be named
        facts = ("x has", "NaN", "infinite", "row", "Drop", "poutine.mask")
    check_refused_by_fit(fitted, NOT_FINITE[form](not_finite()), DataError, *facts)


def test_position_in_a_later_batch_of_a_loader(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(not_finite()), batch_size=4)
    with nothing_changes(fitted), refused(DataError, "x has 1 NaN and 0 infinite", "[7, 1]", "1 row (7)"):
        fitted.posterior(loader).mean  # noqa: B018
    with nothing_changes(fitted), refused(DataError, "x has 1 NaN and 0 infinite", "[7, 1]"):
        fitted.evaluate(loader, particles=2, seed=0)
    with nothing_changes(fitted), refused(DataError, "shuffled batch", "Drop"):
        fit(fitted, DataLoader(TensorDataset(not_finite()), batch_size=4, shuffle=True))


METHODS: dict[str, Callable[..., Any]] = {
    "posterior": lambda vi, x: vi.posterior(x),
    "evaluate": lambda vi, x: vi.evaluate(x),
    "predict": lambda vi, x: vi.predict(x),
    "to_arviz": lambda vi, x: vi.to_arviz(x),
    "refine": lambda vi, x: vi.refine(x),
    "sample_prior": lambda vi, x: vi.sample_prior(3, x),
}


@pytest.mark.parametrize("call", METHODS.values(), ids=METHODS.keys())
def test_every_method_checks_x(call: Callable[..., Any], fitted: avi.AmortizedVI) -> None:
    with nothing_changes(fitted):
        with refused(DataError, "x has 2 NaN and 1 infinite"):
            call(fitted, not_finite())
        with refused(DataError, "x must have observations of shape (3,)", "training data", "(4,)"):
            call(fitted, data(features=4))
        with refused(DataError, "x must hold the same arguments", "x[0] of shape"):
            call(fitted, (data(), data()))
        with refused(DataError, "x must hold torch.float32", "torch.int64", "x.to(torch.float32)"):
            call(fitted, data().long())
        with refused(DataError, "x is a DataLoader that shuffles", "shuffle=False"):
            call(fitted, DataLoader(TensorDataset(data()), shuffle=True))


NOT_DATA = ("x must be a tensor", "DataLoader")
NOT_NUMBERS = ("x must hold numbers",)
NOT_NUMERIC = ("x must have only numeric columns",)
WRONG_DATA: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no rows": (torch.zeros(0, 3), ("x has no observations", "(0, 3)")),
    "no rows, numpy": (np.zeros((0, 3)), ("x has no observations", "(0, 3)")),
    "no rows, frame": (pd.DataFrame({"a": []}), ("x has no observations", "(0, 1)")),
    "no columns": (torch.zeros(5, 0), ("x has no elements", "(5, 0)")),
    "empty list": ([], ("x has no observations",)),
    "empty tuple": ((), (*NOT_DATA, "empty tuple")),
    "empty dict": ({}, (*NOT_DATA, "empty dict")),
    "empty data set": (Rows([]), ("x has no observations",)),
    "empty loader": (DataLoader(Rows([])), ("x has no observations",)),
    "loader that drops everything": (
        DataLoader(Rows(data()), batch_size=64, drop_last=True),
        ("x has no observations",),
    ),
    "scalar": (torch.tensor(3.0), ("x must have one row per observation", "(1, ...)")),
    "number": (3.0, (*NOT_DATA, "float")),
    "none": (None, (*NOT_DATA, "NoneType")),
    "generator": ((row for row in data()), (*NOT_DATA, "generator")),
    "set": ({1, 2}, (*NOT_DATA, "set")),
    "string": ("digits.csv", (*NOT_DATA, "str")),
    "strings": (np.array(["a", "b"]), (*NOT_NUMBERS, "<U1")),
    "objects": (np.array([1, None], dtype=object), (*NOT_NUMBERS, "object", "mask")),
    "dates": (np.array(["2020-01-01"], dtype="M8[D]"), (*NOT_NUMBERS, "datetime64")),
    "complex": (data().numpy() + 1j, (*NOT_NUMBERS, "complex")),
    "complex tensor": (data().to(torch.complex64), ("x must hold real numbers", "complex64", "view_as_real")),
    "double": (data().double(), ("x is a tensor of torch.float64", "torch.float32", "x.to(torch.float32)")),
    "half": (data().half(), ("x is a tensor of torch.float16", "torch.float32")),
    "sparse": (data().to_sparse(), ("x must be a dense tensor", "sparse", "x.to_dense()")),
    "meta": (data().to("meta"), (*NOT_NUMBERS, "meta")),
    "ragged": ([[1.0, 2.0], [3.0]], ("x cannot be read", "tuple")),
    "too large": (np.full((4, 3), 2**64 - 1, dtype=np.uint64), ("x has integers above", "rescale")),
    "masked": (
        np.ma.masked_array(data().numpy(), mask=data().numpy() > 1),
        ("x is a masked array", "x.filled(0)", "poutine.mask"),
    ),
    "text column": (pd.DataFrame({"a": [1.0], "b": ["u"]}), (*NOT_NUMERIC, "'b'", "get_dummies")),
    "date column": (pd.DataFrame({"a": pd.date_range("2020", periods=2)}), (*NOT_NUMERIC, "'a' (datetime64")),
    "category column": (pd.DataFrame({"a": pd.Categorical(["u", "v"])}), (*NOT_NUMERIC, "'a' (category)")),
    "category": (pd.Series(pd.Categorical([1, 2])), ("x must be numeric", "get_dummies")),
    "missing value in a nullable column": (
        pd.DataFrame({"a": [1.0, 2.0], "b": pd.array([1, None], dtype="Int64"), "c": [1.0, 2.0]}),
        ("x has 1 NaN", "[1, 1]"),
    ),
    "lengths": ((data(), data(5)), ("one row per observation", "x[0] has 40", "x[1] has 5")),
    "lengths by name": ({"x": data(), "y": data(5)}, ("one row per observation", "x['x'] has 40", "x['y'] has 5")),
    "number in a tuple": ((data(), 3), ("x[1] must have one row per observation",)),
    "none in a tuple": ((data(), None), ("x[1] must hold numbers", "NoneType")),
    "strings in a data set": (Rows(["a", "b"]), ("x[0] must hold numbers",)),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_data_that_cannot_be_used(case: str, fitted: avi.AmortizedVI) -> None:
    x, facts = WRONG_DATA[case]
    check_refused_by_fit(fitted, x, DataError, *facts)
    with nothing_changes(), refused(DataError, *facts):
        fit(estimator(), x)
    with nothing_changes(), refused(DataError, *facts):
        estimator().setup(x)
    if x is not None:
        with nothing_changes(fitted), refused(DataError, "validation_data"):
            fit(fitted, data(), validation_data=x)


@pytest.mark.parametrize(
    "bad",
    [
        {"x": not_finite()},
        {"x": DataLoader(TensorDataset(not_finite()), batch_size=4)},
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
    one, two = (state_of(fit(vi, data())) for vi in (fitted, other))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert list(fitted.history.index) == [1, 2, 3]


def test_a_refused_type_is_not_kept(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(not_finite().double()), batch_size=4)
    check_refused_by_fit(fitted, loader, DataError, "x has 1 NaN", dtype=torch.float64)
    assert fitted.dtype == torch.float32


def test_a_refused_first_fit_leaves_the_estimator_unfitted() -> None:
    vi = estimator()
    with refused(DataError, "x has 1 NaN"):
        fit(vi, DataLoader(TensorDataset(not_finite()), batch_size=4))
    assert vi.history.empty
    with refused(NotFittedError, "fit or setup"):
        vi.posterior(data())
    fit(vi, data())
    assert list(vi.history.index) == [1]


def test_a_source_that_can_be_read_only_once(fitted: avi.AmortizedVI) -> None:
    class Once(IterableDataset[Tensor]):
        def __init__(self) -> None:
            self.rows = iter(data())

        def __iter__(self) -> Iterator[Tensor]:
            return self.rows

    check_refused_by_fit(fitted, Once(), DataError, "x gave no observations", "read only once", epochs=3)


SAMPLERS: dict[str, Callable[[Tensor], dict[str, Any]]] = {
    "subset": lambda x: {"sampler": SubsetRandomSampler(range(5))},
    "weighted": lambda x: {"sampler": WeightedRandomSampler([1.0] * len(x), len(x))},
    "batches": lambda x: {"batch_sampler": BatchSampler(RandomSampler(x), 5, drop_last=False)},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_loaders_that_shuffle_through_a_sampler(sampler: str, fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(data()), **SAMPLERS[sampler](data()))
    with nothing_changes(fitted), refused(DataError, "x is a DataLoader that shuffles", "shuffle=False"):
        fitted.posterior(loader)
    fit(fitted, data(), validation_data=loader)  # their order does not matter


def test_batch_size_and_a_loader(fitted: avi.AmortizedVI) -> None:
    loader = DataLoader(TensorDataset(data()), batch_size=5)
    check_refused_by_fit(fitted, loader, OptionError, "batch_size", "DataLoader", "x", batch_size=7)


def test_labels_in_the_data_set() -> None:
    labeled = TensorDataset(data(), torch.ones(ROWS, dtype=torch.long))
    with nothing_changes(), refused(EncoderError, "MLP failed", "x[1] of shape (40,)", "2 arguments", "labels"):
        fit(estimator(), labeled)

    class First(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            return x

    with nothing_changes(), refused(ModelError, "the model failed", "x[1]", "2 arguments", "labels"):
        fit(estimator(encoder=First()), labeled)


def test_an_unknown_keyword() -> None:
    with nothing_changes(), refused(ModelError, "the model failed on x['y']", "unexpected keyword argument 'y'"):
        fit(estimator(), {"y": data()})


# ------------------------------------------------------------------------------ validation data

VALIDATION: dict[str, tuple[Any, tuple[str, ...]]] = {
    "shape": (data(features=4), ("validation_data must have observations of shape (3,)", "x", "(4,)")),
    "structure": ((data(), data()), ("validation_data must hold the same arguments as x", "validation_data[0]")),
    "names": ({"x": data()}, ("validation_data must hold the same arguments as x", "validation_data['x']")),
    "integers": (data().long(), ("validation_data must hold torch.float32", "torch.int64")),
    "not finite": (not_finite(), ("validation_data has 2 NaN and 1 infinite", "[7, 1]")),
    "not finite, data set": (Rows(not_finite()), ("validation_data has 2 NaN and 1 infinite", "[7, 1]")),
    "not finite, later batch": (
        DataLoader(Rows(not_finite()), batch_size=4),
        ("validation_data has 1 NaN", "[7, 1]"),
    ),
}


@pytest.mark.parametrize("case", VALIDATION)
def test_validation_data(case: str, fitted: avi.AmortizedVI) -> None:
    x, facts = VALIDATION[case]
    check_refused_by_fit(fitted, data(), DataError, *facts, validation_data=x)


def test_patience_without_validation_data(fitted: avi.AmortizedVI) -> None:
    check_refused_by_fit(fitted, data(), OptionError, "patience needs validation_data", patience=3)
