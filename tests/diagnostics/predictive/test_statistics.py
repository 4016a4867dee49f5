"""Named statistics ignore missing values, and callables are checked."""

import numpy as np
import pytest
import torch

from amortvi.diagnostics.predictive.statistics import NAMED, choose, evaluate
from amortvi.errors import OptionError

VALUES = torch.tensor([[0.0, 2.0, torch.nan], [torch.nan, -1.0, 4.0], [torch.nan, torch.nan, torch.nan]])
REFERENCE = {
    "mean": np.nanmean,
    "std": np.nanstd,
    "min": np.nanmin,
    "max": np.nanmax,
    "zeros": lambda values, axis=None: np.sum(values == 0, axis=axis) / np.sum(~np.isnan(values), axis=axis),
}


@pytest.mark.parametrize("name", NAMED)
def test_missing_values_are_ignored(name):
    whole = NAMED[name](VALUES, [0, 1])
    assert float(whole) == pytest.approx(REFERENCE[name](VALUES.numpy()))
    rows = NAMED[name](VALUES, [1])
    np.testing.assert_allclose(rows[:2], REFERENCE[name](VALUES[:2].numpy(), axis=1))
    assert rows[2].isnan()


def test_infinite_values_are_not_missing():
    assert float(NAMED["max"](torch.tensor([1.0, torch.inf]), [0])) == torch.inf
    assert float(NAMED["min"](torch.tensor([1.0, -torch.inf]), [0])) == -torch.inf


def test_zeros_are_counted_for_discrete_data_by_default():
    assert "zeros" in choose(None, discrete=True)
    assert "zeros" not in choose(None, discrete=False)


def test_callables_are_named_after_themselves_or_by_a_mapping():
    def skewness(values):
        return values.mean()

    assert list(choose(["mean", skewness], discrete=False)) == ["mean", "skewness"]
    assert list(choose({"mine": skewness, "location": "mean"}, discrete=False)) == ["mine", "location"]


@pytest.mark.parametrize("wrong", ["mean", 3, [], ["median"], ["mean", "mean"], [lambda v: v, lambda v: v]])
def test_invalid_choice(wrong):
    with pytest.raises(OptionError, match="statistics"):
        choose(wrong, discrete=False)


def test_callables_can_return_several_numbers():
    values = torch.arange(6.0).reshape(3, 2)
    found = evaluate("means", lambda v: v.mean(0), values, "x")
    assert found.tolist() == [2, 3]
    assert found.dtype == torch.float64
    assert evaluate("count", lambda v: np.int64(len(v)), values, "x").tolist() == [3]


def test_failing_callables_are_named():
    values = torch.zeros(3, 2)
    with pytest.raises(OptionError, match=r"statistic 'broken' failed .* site 'x', of shape \(3, 2\): IndexError"):
        evaluate("broken", lambda v: v[5], values, "x")
    with pytest.raises(OptionError, match="'ratio' must return finite numbers"):
        evaluate("ratio", lambda v: v.mean() / v.mean(), values, "x")
    with pytest.raises(OptionError, match="'empty' must return finite numbers"):
        evaluate("empty", lambda v: v[:0], values, "x")
