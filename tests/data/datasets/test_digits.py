"""The digits data: complete, split reproducibly, and with a helpful error if scikit-learn is missing."""

import sys

import pytest
import torch

from amortvi.data.datasets import digits
from amortvi.errors import MissingDependencyError, OptionError


def rows(x: torch.Tensor, labels: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, torch.cat([x, labels.unsqueeze(1)], dim=1).tolist()))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_disjoint_and_complete(seed: int) -> None:
    """Training and test set together are scikit-learn's digits, each image with its own label."""
    from sklearn.datasets import load_digits

    found, bunch = digits(seed=seed), load_digits()
    x, labels = torch.cat([found.x_train, found.x_test]), torch.cat([found.labels_train, found.labels_test])
    given = torch.tensor(bunch.data, dtype=torch.float32) / 16
    assert rows(x, labels) == rows(given, torch.tensor(bunch.target))


def test_shapes_and_types() -> None:
    found = digits()
    assert found.x_train.shape == (1437, 64)
    assert found.x_test.shape == (360, 64)
    assert found.x_train.dtype == torch.float32
    assert found.labels_train.shape == (1437,)
    assert found.labels_test.shape == (360,)
    assert found.labels_train.dtype == torch.int64
    assert (found.x_train.min(), found.x_train.max()) == (0, 1)
    assert set(found.labels_train.tolist()) == set(range(10))
    assert (found.side, found.name) == (8, "digits")


def test_the_split_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = digits()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = digits(), digits(seed=1)
    assert torch.equal(first.x_train, second.x_train)
    assert torch.equal(first.labels_test, second.labels_test)
    assert not torch.equal(first.x_test, other.x_test)


def test_an_invalid_seed_is_refused() -> None:
    with pytest.raises(OptionError, match="seed must be an integer from 0"):
        digits(seed="zero")


def test_a_missing_scikit_learn_is_reported_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules, "sklearn", "sklearn.datasets"]:
        if module.partition(".")[0] == "sklearn":
            monkeypatch.setitem(sys.modules, module, None)  # importing it then fails
    with pytest.raises(MissingDependencyError, match=r"the digits data needs sklearn, .* 'amortvi\[examples\]'"):
        digits()
