"""The support of transformed distributions: the image of that of the base, whatever PyTorch says."""

from typing import Any

import pytest
import torch
from pyro import distributions as dist
from torch.distributions import constraints
from torch.distributions import transforms as T

from amortvi.errors import ModelError
from amortvi.model.supports import support_of

Affine = T.AffineTransform

CASES: list[tuple[Any, str]] = [
    (dist.TransformedDistribution(dist.Exponential(1.0), [Affine(1.5, -2.0)]), "LessThan(upper_bound=1.5)"),
    (
        dist.TransformedDistribution(dist.Beta(1.0, 1.0), [Affine(-1.0, 2.0)]),
        "Interval(lower_bound=-1.0, upper_bound=1.0)",
    ),
    (dist.TransformedDistribution(dist.Normal(0.0, 1.0), [Affine(0.0, 2.0)]), "Real()"),
    (dist.TransformedDistribution(dist.Normal(0.0, 1.0), [T.ExpTransform()]), "GreaterThan(lower_bound=0.0)"),
    (dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [T.SigmoidTransform().inv]), "Real()"),
    (dist.TransformedDistribution(dist.Gamma(1.0, 1.0), [T.ExpTransform()]), "GreaterThan(lower_bound=1.0)"),
    (
        dist.TransformedDistribution(dist.Normal(torch.zeros(3), 1.0).to_event(1), [T.StickBreakingTransform()]),
        "Simplex()",
    ),
    (dist.LogNormal(0.0, 1.0), "GreaterThan(lower_bound=0.0)"),
    (dist.Pareto(2.0, 1.0), "GreaterThanEq(lower_bound=2.0)"),
]


@pytest.mark.parametrize(("distribution", "expected"), CASES, ids=[expected for _, expected in CASES])
def test_support(distribution: Any, expected: str) -> None:
    support = support_of("z", distribution)
    assert str(support) == expected
    draws = distribution.sample((1000,))
    assert bool(support.check(draws).all())


def test_wrappers_are_seen_through() -> None:
    shifted = dist.TransformedDistribution(dist.Exponential(torch.ones(4)), [Affine(1.5, 1.0)])
    wrapped = support_of("z", shifted.expand([5, 4]).to_event(1).mask(torch.ones(5) > 0))
    assert isinstance(wrapped, constraints.independent)
    assert str(wrapped.base_constraint) == "GreaterThan(lower_bound=1.5)"
    assert wrapped.event_dim == 1


@pytest.mark.parametrize(
    "distribution",
    [
        dist.TransformedDistribution(dist.Dirichlet(torch.ones(3)), [Affine(1.0, 1.0)]),
        dist.TransformedDistribution(dist.Exponential(torch.ones(2)), [Affine(0.0, torch.tensor([1.0, -1.0]))]),
    ],
    ids=["image of a simplex", "different sides"],
)
def test_unknown_supports_are_refused(distribution: Any) -> None:
    with pytest.raises(ModelError, match="'z'"):
        support_of("z", distribution)
