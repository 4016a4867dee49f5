"""Observations of unequal length: padded values and mask, from lists and from data frames with one row per measurement."""

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.errors import DataError, OptionError

SIZES = [3, 1, 4]
VECTORS = [torch.arange(1.0, 1 + size) for size in SIZES]
MATRICES = [torch.randn(size, 2, generator=torch.Generator().manual_seed(size)) for size in SIZES]
FRAME = pd.DataFrame(
    {
        "subject": ["b", "a", "b", "c", "b", "c"],
        "time": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5],
        "y": [1, 2, 3, 4, 5, 6],
    }
)


def mean_of_a_set(x: Tensor, mask: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mu.unsqueeze(-1), 1.0).mask(mask).to_event(1), obs=x)


@pytest.mark.parametrize("arrays", [VECTORS, MATRICES], ids=["vectors", "matrices"])
@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        lambda arrays: [array.numpy() for array in arrays],
        lambda arrays: [array.tolist() for array in arrays],
    ],
    ids=["list", "tuple", "arrays", "nested lists"],
)
@pytest.mark.parametrize("length", [None, 4, 7])
def test_values_and_mask(arrays: list[Tensor], form: Any, length: int | None) -> None:
    values, mask = avi.pad(form(arrays), length=length)
    assert values.shape == (3, length or 4, *arrays[0].shape[1:])
    assert mask.dtype == torch.bool
    assert mask.shape == values.shape[:2]
    for i, array in enumerate(arrays):
        assert torch.equal(values[i][mask[i]], array)
        assert torch.equal(mask[i], torch.arange(values.shape[1]) < len(array))
        assert (values[i][~mask[i]] == 0).all()


def test_types() -> None:
    single, double = torch.zeros(2), torch.zeros(3, dtype=torch.float64)
    assert avi.pad([single, single]).values.dtype == torch.float32
    assert avi.pad([double, double]).values.dtype == torch.float64
    assert avi.pad([np.zeros(2), np.zeros(3)]).values.dtype == torch.float32  # doubles are merely the default of NumPy
    assert avi.pad([np.zeros(2)], dtype=torch.float64).values.dtype == torch.float64
    assert avi.pad([np.array([1, 2]), [3]]).values.dtype == torch.int64
    assert avi.pad([[1, 2], [0.5]]).values.tolist() == [[1, 2], [0.5, 0]]


def test_frames_are_grouped_in_order_of_appearance() -> None:
    padded = avi.pad(FRAME, by="subject")
    assert list(padded.labels) == ["b", "a", "c"]
    assert padded.labels.name == "subject"
    assert padded.values[..., 0].tolist() == [[0.0, 1.0, 2.0], [0.5, 0.0, 0.0], [1.5, 2.5, 0.0]]
    assert padded.values[..., 1].tolist() == [[1, 3, 5], [2, 0, 0], [4, 6, 0]]
    assert padded.mask.sum(1).tolist() == [3, 1, 2]
    assert torch.equal(avi.pad(FRAME, by="subject", columns=["y"]).values, padded.values[..., 1:].long())
    assert torch.equal(avi.pad(FRAME, by="subject", columns="y", length=3).values, padded.values[..., 1].long())
    # Another order of the rows, or another index, does not matter as long as the order within each group is the same.
    moved = FRAME.iloc[[3, 1, 0, 5, 2, 4]].set_index(pd.Index(range(10, 16)))
    assert torch.equal(avi.pad(moved, by="subject").values, padded.values[[2, 1, 0]])


def test_labels_reach_the_results() -> None:
    x = avi.pad(FRAME, by="subject", columns="time")
    vi = avi.AmortizedVI(mean_of_a_set, avi.encoders.DeepSets(1, [4], after_pooling=[4])).setup(x, seed=0)
    assert list(vi.evaluate(x, particles=2, seed=0).index) == ["b", "a", "c"]
    assert list(vi.posterior(x).select([2, 0]).index) == ["c", "b"]
    assert vi.posterior(tuple(x)).index is None
    assert list(vi.to_arviz(x, 5, seed=0)["posterior"]["data"].values) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (([],), ("arrays holds no observations",)),
        (([torch.zeros(2), torch.zeros(0)],), (r"arrays\[1\] is empty", "Leave it out")),
        (([[1.0], []],), (r"arrays\[1\] is empty",)),
        (([torch.zeros(2), torch.zeros(2, 3)],), (r"arrays\[1\] must have rows of shape \(\), .*\(3,\)",)),
        (([torch.zeros(2, 4), torch.zeros(2, 3)],), (r"arrays\[1\] must have rows of shape \(4,\), .*\(3,\)",)),
        ((["ab", "c"],), (r"arrays\[0\] must hold numbers",)),
        (([np.array(["a"])],), (r"arrays\[0\] must hold numbers",)),
        (([1.0, 2.0],), (r"arrays\[0\] must have one row per observation",)),
        ((3.0,), ("arrays must be a list of arrays, or a DataFrame with by=...; got float",)),
        (({"a": [1.0]},), ("arrays must be a list", "got dict")),
        ((FRAME,), ("by must name the column", "'subject'")),
        ((FRAME, {"by": "patient"}), ("'patient' is not a column", "'subject', 'time', 'y'")),
        ((FRAME, {"by": "subject", "columns": ["y", "z"]}), ("'z' is not a column",)),
        ((FRAME, {"by": "subject", "columns": "z"}), ("'z' is not a column",)),
        ((FRAME, {"by": "time"}), ("must have only numeric columns; got 'subject'",)),
        ((FRAME[:0], {"by": "subject"}), ("holds no observations",)),
        ((FRAME.replace({"subject": {"c": None}}), {"by": "subject"}), ("missing in 2 rows, first in row 3",)),
        ((FRAME, {"by": "subject", "length": 2}), ("length=2 is too short: observation 'b' has 3 rows", "length=3")),
        ((VECTORS, {"length": 3}), ("length=3 is too short: observation 2 has 4 rows",)),
        (({1.0, 2.0},), ("arrays must be a list", "got set")),
        ((np.array(3.0),), ("arrays must be a list", "got ndarray")),
        ((FRAME[["subject", "y", "y"]], {"by": "subject"}), (r"distinct names; several are named \['y'\]",)),
        ((FRAME, {"by": ["subject"]}), (r"\['subject'\] is not a column",)),
        ((VECTORS, {"by": "subject"}), ("by and columns are for a DataFrame; got list",)),
    ],
    ids=str,
)
def test_what_cannot_be_padded(arguments: tuple[Any, ...], facts: tuple[str, ...]) -> None:
    content, options = (*arguments, {})[:2]
    for fact in facts:
        with pytest.raises(DataError, match=fact):
            avi.pad(content, **options)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="length must be a positive integer; got 0"):
        avi.pad(VECTORS, length=0)
    for dtype in ("float32", torch.int64):
        with pytest.raises(OptionError, match="dtype must be a floating type"):
            avi.pad(VECTORS, dtype=dtype)


@pytest.mark.parametrize(
    "arrays",
    [VECTORS, MATRICES, [array.numpy() for array in VECTORS], np.array([*map(Tensor.numpy, VECTORS)], dtype=object)],
    ids=["vectors", "matrices", "arrays", "array of arrays"],
)
def test_a_fit_refuses_unequal_lengths_and_names_the_function(arrays: Any) -> None:
    vi = avi.AmortizedVI(mean_of_a_set, avi.encoders.DeepSets(1))
    with pytest.raises(DataError, match=r"avi\.pad\(x\)"):
        vi.fit(arrays)
