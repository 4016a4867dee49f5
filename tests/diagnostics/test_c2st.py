"""The classifier two-sample test is right about samples that are alike, and about such that are not."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from amortvi.diagnostics import c2st
from amortvi.errors import DataError, MissingDependencyError, OptionError


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Parts that are left out in turn are not independent; taken to be, 0.09 of these tests would be below 0.05."""
    p_values = [c2st(normal(60, 3, 2 * i), normal(60, 3, 2 * i + 1), classifier="linear").p_value for i in range(100)]
    for level in (0.01, 0.05, 0.2):
        false_alarms = sum(p < level for p in p_values)
        assert false_alarms <= stats.binom.ppf(0.9999, len(p_values), level)
    assert max(p_values) > 0.5  # and it does not just say no


def test_a_known_total_variation() -> None:
    """Two normals a distance apart: the best accuracy is Phi(distance / 2)."""
    test = c2st(normal(2000, 1, 0), 1.0 + normal(2000, 1, 1), classifier="linear")
    best = stats.norm.cdf(0.5)
    assert abs(test.accuracy - best) < 5 * test.standard_error
    assert 0.5 * (best * (1 - best) / 4000) ** 0.5 < test.standard_error < 2 * (best * (1 - best) / 4000) ** 0.5
    assert test.p_value < 1e-20


def correlated(rows: int, seed: int) -> Tensor:
    a = normal(rows, 2, seed)
    return torch.stack([a[:, 0], 0.9 * a[:, 0] + 0.19**0.5 * a[:, 1]], dim=1)


@pytest.mark.parametrize(
    "other",
    [1.5 * normal(600, 2, 1), 0.6 * normal(600, 2, 1), 0.7 + normal(600, 2, 1), correlated(600, 1)],
    ids=["wide", "narrow", "shifted", "correlated"],
)
def test_the_network_sees_every_fault(other: Tensor) -> None:
    alike = c2st(normal(600, 2, 0), normal(600, 2, 3))
    assert alike.p_value > 0.01
    found = c2st(normal(600, 2, 0), other)
    assert found.p_value < 1e-3
    assert found.accuracy > alike.accuracy + 2 * alike.standard_error


def test_a_linear_classifier_sees_means_only() -> None:
    assert c2st(normal(600, 2, 0), 3.0 * normal(600, 2, 1), classifier="linear").p_value > 0.01


def test_any_form_and_any_number_of_rows() -> None:
    a, b = normal(90, 1, 0), 5.0 + normal(50, 1, 1)
    results = [
        c2st(a, b, classifier="linear"),
        c2st(a[:, 0].numpy(), b.numpy(), classifier="linear"),
        c2st(pd.DataFrame(a.numpy()), b.double().requires_grad_(), classifier="linear"),
    ]
    assert results[0] == results[1] == results[2]
    assert results[0].rows == 50
    assert results[0].accuracy > 0.95
    assert list(results[0].to_frame().columns) == ["accuracy", "standard_error", "p_value", "rows", "folds"]
    assert "C2ST accuracy 0.9" in str(results[0]) or "C2ST accuracy 1.0" in str(results[0])


def test_a_constant_column_and_other_units_change_nothing() -> None:
    a, b = normal(200, 2, 0), normal(200, 2, 1)
    plain = c2st(a, b + 1, classifier="linear")
    scaled = c2st(1e6 * a, 1e6 * (b + 1), classifier="linear")
    assert plain.accuracy == pytest.approx(scaled.accuracy)
    ones = torch.ones(200, 1)
    with_constant = c2st(torch.cat([a, ones], 1), torch.cat([b + 1, ones], 1), classifier="linear")
    assert plain.accuracy == pytest.approx(with_constant.accuracy)


def test_a_classifier_of_ones_own_is_left_as_it_was() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    own = KNeighborsClassifier(15)
    test = c2st(normal(200, 2, 0), 2.0 + normal(200, 2, 1), classifier=own)
    assert test.accuracy > 0.8
    assert not hasattr(own, "classes_")


def test_seeds() -> None:
    a, b = normal(100, 2, 0), 0.3 + normal(100, 2, 1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert c2st(a, b, seed=1) == c2st(a, b, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert len({c2st(a, b, classifier="linear", seed=seed).accuracy for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("a", "b", "options", "kind", "message"),
    [
        (normal(9, 2, 0), normal(9, 3, 0), {}, DataError, "a and b must have the same columns; a has 2, b has 3"),
        (torch.full((9, 2), torch.nan), normal(9, 2, 0), {}, DataError, "a has 18 values that are not finite"),
        (normal(9, 2, 0), torch.zeros(2, 2, 2), {}, DataError, r"b must have shape \(rows, columns\)"),
        (normal(9, 2, 0), ["one", "two"], {}, DataError, "b cannot be read as a matrix of numbers"),
        (normal(9, 2, 0), torch.zeros(0, 2), {}, DataError, r"b must have shape .* got \(0, 2\)"),
        (normal(9, 2, 0), normal(9, 2, 0), {"folds": 10}, OptionError, "folds must be from 2 to the 9 rows"),
        (normal(9, 2, 0), normal(9, 2, 0), {"folds": 1}, OptionError, "folds must be from 2"),
        (normal(9, 2, 0), normal(9, 2, 0), {"classifier": "forest"}, OptionError, "classifier must be 'mlp'"),
        (normal(9, 2, 0), normal(9, 2, 0), {"seed": None}, OptionError, "seed must be an integer"),
    ],
)
def test_bad_input(a: Any, b: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        c2st(a, b, **options)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules]:
        if module.partition(".")[0] == "sklearn":
            monkeypatch.setitem(sys.modules, module, None)  # what Python keeps for a module that cannot be imported
    with pytest.raises(MissingDependencyError, match=r"two-sample test needs sklearn, .* 'amortvi\[diagnostics\]'"):
        c2st(normal(9, 2, 0), normal(9, 2, 1))
