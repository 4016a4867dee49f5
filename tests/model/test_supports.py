"""The support of the latents of one observation, inside wrappers and mixtures."""

from typing import Any

import pytest
import torch
from pyro import distributions as dist
from pyro.distributions import constraints

from amortvi.errors import ModelError
from amortvi.model.plates import NestedPlate, PlateLayout
from amortvi.model.supports import fixed_support, has_bijection, inner_support


def test_supports_with_a_bijection() -> None:
    for support in (constraints.real, constraints.simplex, constraints.corr_cholesky, constraints.interval(0.0, 1.0)):
        assert has_bijection(support)
    for support in (constraints.lower_cholesky, constraints.sphere, constraints.positive_definite):
        assert not has_bijection(support)


LAYOUT = PlateLayout(-2, (NestedPlate("parts", -1, 3),), event_dim=1)


@pytest.mark.parametrize(
    "bound",
    [torch.tensor(2.0), torch.tensor([1.0, 2.0]), torch.arange(3.0).reshape(1, 3, 1)],
    ids=["scalar", "one per element", "one per nested position"],
)
def test_bounds_of_one_observation_are_extracted(bound: torch.Tensor) -> None:
    expanded, expected = bound.expand(4, 3, 2), bound.expand(1, 3, 2)[0]
    for support in (constraints.greater_than(expanded), constraints.less_than(expanded)):
        (found,) = vars(fixed_support("z", constraints.independent(support, 1), LAYOUT)).values()
        assert torch.equal(found, expected)
    half = fixed_support("z", constraints.interval(-1.0, expanded), LAYOUT)
    assert half.lower_bound == -1.0
    assert torch.equal(half.upper_bound, expected)
    assert fixed_support("z", constraints.independent(constraints.positive, 2), LAYOUT) is constraints.positive


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (torch.arange(4.0).reshape(4, 1, 1).expand(4, 3, 2), r"differs between observations \(upper_bound"),
        (torch.tensor(1.0, requires_grad=True), r"has a trainable bound \(upper_bound\)"),
    ],
)
def test_bounds_that_vary_are_refused(bound: torch.Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=rf"latent site 'z' {message}"):
        fixed_support("z", constraints.interval(-1.0, bound), LAYOUT)


FLAT = PlateLayout(-1, (), event_dim=1)
BOUNDS = torch.tensor([1.0, 2.0])


def support_of(low: Any, high: Any, event_dim: int = 0) -> constraints.Constraint:
    """Return the support of one observation under a mixture of uniform distributions in a batch of four."""
    prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), dist.Uniform(low, high).to_event(event_dim))
    return fixed_support("z", prior.expand([4]).support, PlateLayout(-1, (), event_dim))


def test_bounds_that_components_share() -> None:
    for found in (support_of(torch.zeros(3), 2.0), support_of(torch.zeros(3, 2), BOUNDS.expand(3, 2), event_dim=1)):
        assert type(found) is type(constraints.interval(0.0, 1.0))
    assert torch.equal(found.upper_bound, BOUNDS)
    assert torch.equal(found.lower_bound, torch.zeros(2))
    nested = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)),
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2, 3)), dist.Uniform(0.0, torch.full((2, 3), 2.0))),
    )
    found = fixed_support("z", nested.expand([4]).support, PlateLayout(-1, (), 0))
    assert torch.equal(found.upper_bound, torch.tensor(2.0))


def test_bounds_that_differ_between_components_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"latent site 'z' differs between the components of its mixture \(upper_bound\)"
    ):
        support_of(torch.zeros(3), torch.arange(1.0, 4.0))
    halves = dist.MaskedMixture(
        torch.tensor([True, False]), dist.Gamma(1.0, torch.ones(2)), dist.Normal(0.0, torch.ones(2))
    )
    with pytest.raises(
        ModelError, match=r"latent site 'z' differs between the components of its mixture \(Greater.* and Real"
    ):
        fixed_support("z", halves.to_event(1).support, FLAT)


def test_a_masked_mixture_of_equal_supports() -> None:
    mask = torch.tensor([True, False])
    for one, other, expected in (
        (dist.Gamma(1.0, torch.ones(2)), dist.LogNormal(0.0, torch.ones(2)), constraints.positive),
        (dist.Normal(0.0, torch.ones(2)), dist.Laplace(0.0, torch.ones(2)), constraints.real),
    ):
        found = fixed_support("z", dist.MaskedMixture(mask, one, other).to_event(1).support, FLAT)
        values = torch.tensor([-1.0, 2.0])
        assert torch.equal(found.check(values), expected.check(values))


def test_the_support_inside_wrappers() -> None:
    vectors = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), vectors)
    assert inner_support(mixture.to_event(0).support) is constraints.real
    assert inner_support(constraints.independent(constraints.simplex, 1)) is constraints.simplex
