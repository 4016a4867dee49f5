"""The classifier two-sample test rarely rejects samples of one distribution and rejects samples of different ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from amortvi.diagnostics.c2st import c2st
from amortvi.errors import DataError, MissingDependencyError, OptionError

CLEAR = 1e-6
"""The p-value is below this if a difference must be found, and above it for samples of one distribution."""


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """The folds are not independent: a standard error that ignores this gives too many small p-values."""
    p_values = [c2st(torch.randn(60, 3), torch.randn(60, 3), classifier="linear").p_value for _ in range(100)]
    for level in (0.01, 0.05, 0.2):
        assert sum(p < level for p in p_values) <= stats.binom.ppf(1 - 1e-5, len(p_values), level)
    assert max(p_values) > 0.5


def test_the_accuracy_of_a_linear_classifier_for_two_shifted_normals() -> None:
    """Two normals at distance d have total variation 2 Phi(d / 2) - 1, and a linear classifier is optimal."""
    test = c2st(torch.randn(2000, 1), 1.0 + torch.randn(2000, 1), classifier="linear")
    best = stats.norm.cdf(0.5)
    assert abs(test.accuracy - best) < 5 * test.standard_error
    assert 0.5 * (best * (1 - best) / 4000) ** 0.5 < test.standard_error < 2 * (best * (1 - best) / 4000) ** 0.5
    assert test.p_value < CLEAR


@pytest.mark.parametrize(
    ("change", "classifier", "found"),
    [
        (lambda a: 2.5 * a, "mlp", True),
        (lambda a: 0.4 * a, "mlp", True),
        (lambda a: a + 1.0, "mlp", True),
        (lambda a: a @ torch.tensor([[1.0, 0.95], [0.0, 0.31]]), "mlp", True),  # only the correlation differs
        (lambda a: a, "mlp", False),
        (lambda a: 3.0 * a, "linear", False),  # sensitive only to the means
    ],
)
def test_differences_that_a_classifier_finds(change: Callable[[Tensor], Tensor], classifier: str, found: bool) -> None:
    test = c2st(torch.randn(1000, 2), change(torch.randn(1000, 2)), classifier=classifier)
    assert (test.p_value < CLEAR) is found


def test_form_size_units_and_constant_columns_of_the_samples() -> None:
    a, b = torch.randn(90, 1), 1.0 + torch.randn(50, 1)
    test = c2st(a, b, classifier="linear")
    assert test == c2st(a[:, 0].numpy(), b.numpy(), classifier="linear")
    assert test == c2st(pd.DataFrame(a.numpy()), b.double().requires_grad_(), classifier="linear")
    assert test == c2st(2.0**20 * a, 2.0**20 * b, classifier="linear")
    with_constant = (torch.cat([sample, torch.ones_like(sample)], 1) for sample in (a, b))
    assert c2st(*with_constant, classifier="linear").accuracy == pytest.approx(test.accuracy, abs=0.02)
    assert (test.rows, test.folds) == (50, 5)
    assert list(test.to_frame().columns) == ["accuracy", "standard_error", "p_value", "rows", "folds"]
    assert str(test).startswith(f"C2ST accuracy {test.accuracy:.3f} ± ")


def test_a_given_classifier_is_cloned() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    given = KNeighborsClassifier(15)
    assert c2st(torch.randn(200, 2), 2.0 + torch.randn(200, 2), classifier=given).accuracy > 0.8
    assert not hasattr(given, "classes_")


def test_a_seed_reproduces_the_result_and_leaves_the_random_state() -> None:
    a, b = torch.randn(100, 2), 0.3 + torch.randn(100, 2)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert c2st(a, b, seed=1) == c2st(a, b, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert len({c2st(a, b, classifier="linear", seed=seed).accuracy for seed in range(12)}) > 1


NINE = np.arange(18.0).reshape(9, 2)


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "message"),
    [
        (NINE, np.zeros((9, 3)), {}, DataError, "a and b must have the same columns; a has 2, b has 3"),
        (torch.full((9, 2), torch.nan), NINE, {}, DataError, "a has 18 values that are not finite"),
        (NINE, torch.zeros(2, 2, 2), {}, DataError, r"b must have shape \(rows, columns\)"),
        (NINE, ["one", "two"], {}, DataError, "b cannot be read"),
        (NINE, torch.zeros(0, 2), {}, DataError, r"b must have shape .* got \(0, 2\)"),
        (NINE, NINE, {"folds": 10}, OptionError, "folds .* 9; got 10"),
        (NINE, NINE, {"folds": 1}, OptionError, "folds .* got 1"),
        (NINE, NINE, {"classifier": "forest"}, OptionError, "classifier must be 'mlp', 'linear' .* got 'forest'"),
        (NINE, NINE, {"seed": None}, OptionError, "seed"),
    ],
)
def test_bad_arguments(a: Any, b: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        c2st(a, b, **options)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules, "sklearn"]:
        if module.partition(".")[0] == "sklearn":
            monkeypatch.setitem(sys.modules, module, None)  # Python's entry for a module that cannot be imported
    with pytest.raises(MissingDependencyError, match=r"two-sample test needs sklearn, .* 'amortvi\[diagnostics\]'"):
        c2st(NINE, NINE)
