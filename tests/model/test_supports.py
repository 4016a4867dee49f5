"""Supports of latent sites: elementwise, with fixed bounds, and with a bijection."""

import pytest
import torch
from pyro.distributions import constraints

from amortvi.errors import ModelError
from amortvi.model.plates import NestedPlate, PlateLayout
from amortvi.model.structure import fixed_support, has_bijection

LAYOUT = PlateLayout(-2, (NestedPlate("parts", -1, 3),), event_dim=1)


def test_supports_with_a_bijection() -> None:
    for support in (constraints.real, constraints.simplex, constraints.corr_cholesky, constraints.interval(0.0, 1.0)):
        assert has_bijection(support)
    for support in (constraints.lower_cholesky, constraints.sphere, constraints.positive_definite):
        assert not has_bijection(support)


def test_reinterpreted_dimensions_are_ignored() -> None:
    assert fixed_support("z", constraints.independent(constraints.positive, 2), LAYOUT) is constraints.positive


@pytest.mark.parametrize("bound", [torch.tensor(2.0), torch.tensor([1.0, 2.0])], ids=["scalar", "one per element"])
def test_bounds_of_one_observation_are_extracted(bound: torch.Tensor) -> None:
    expanded = constraints.greater_than(bound.expand(4, 3, 2))
    (found,) = vars(fixed_support("z", expanded, LAYOUT)).values()
    assert torch.equal(found, bound.expand(3, 2))
    half = fixed_support("z", constraints.interval(-1.0, bound.expand(4, 3, 2)), LAYOUT)
    assert half.lower_bound == -1.0
    assert torch.equal(half.upper_bound, bound.expand(3, 2))


def test_bounds_may_differ_over_a_nested_plate() -> None:
    bound = torch.arange(3.0).reshape(1, 3, 1)
    found = fixed_support("z", constraints.less_than(bound.expand(4, 3, 2)), LAYOUT)
    assert found.upper_bound[:, 0].tolist() == [0, 1, 2]


def test_bounds_that_differ_between_observations_are_refused() -> None:
    bound = torch.arange(4.0).reshape(4, 1, 1).expand(4, 3, 2)
    with pytest.raises(ModelError, match=r"latent site 'z' differs between observations \(upper_bound"):
        fixed_support("z", constraints.interval(-1.0, bound), LAYOUT)


def test_trainable_bounds_are_refused() -> None:
    with pytest.raises(ModelError, match=r"latent site 'z' has a trainable bound \(lower_bound\)"):
        fixed_support("z", constraints.greater_than(torch.tensor(1.0, requires_grad=True)), LAYOUT)
