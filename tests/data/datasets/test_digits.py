"""The digits: every one of them, once, in the same split each time."""

import sys

import pytest
import torch

from amortvi.data.datasets import digits
from amortvi.errors import MissingDependencyError, OptionError


def _rows(x: torch.Tensor, labels: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, torch.cat([x, labels.unsqueeze(1)], dim=1).tolist()))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_disjoint_and_complete(seed: int) -> None:
    """Train and test together are the digits of scikit-learn, each image with its own label, each as often as there."""
    from sklearn.datasets import load_digits

    found, bunch = digits(seed=seed), load_digits()
    x, labels = torch.cat([found.x_train, found.x_test]), torch.cat([found.labels_train, found.labels_test])
    given = torch.tensor(bunch.data, dtype=torch.float32) / 16
    assert _rows(x, labels) == _rows(given, torch.tensor(bunch.target))


def test_shapes_and_types() -> None:
    found = digits()
    assert found.x_train.shape == (1437, 64)
    assert found.x_test.shape == (360, 64)
    assert found.x_train.dtype == torch.float32
    assert found.labels_train.shape == (1437,)
    assert found.labels_test.shape == (360,)
    assert found.labels_train.dtype == torch.int64
    assert found.x_train.min() == 0
    assert found.x_train.max() == 1
    assert set(found.labels_test.tolist()) == set(range(10))
    assert (found.side, found.name) == (8, "digits")


def test_the_split_is_its_seeds_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = digits()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = digits(), digits(seed=1)
    assert torch.equal(first.x_train, second.x_train)
    assert torch.equal(first.labels_test, second.labels_test)
    assert not torch.equal(first.x_test, other.x_test)


def test_a_wrong_seed() -> None:
    with pytest.raises(OptionError, match="seed must be an integer from 0"):
        digits(seed="zero")


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules, "sklearn", "sklearn.datasets"]:
        if module.partition(".")[0] == "sklearn":
            monkeypatch.setitem(sys.modules, module, None)  # what Python keeps for a module that cannot be imported
    with pytest.raises(MissingDependencyError, match=r"the digits data needs sklearn, .* 'amortvi\[examples\]'"):
        digits()
