"""Bijections from unconstrained numbers to supports: accurate, and with proper densities."""

from typing import Any

import pytest
import torch
from pyro import distributions as dist
from torch.distributions.transforms import StickBreakingTransform

from amortvi.model.supports import bijection
from amortvi.model.supports.bijections import StickBreaking

X = 3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_stick_breaking_is_that_of_pytorch() -> None:
    own, theirs = StickBreaking(), StickBreakingTransform()
    y = own(X)
    torch.testing.assert_close(y, theirs(X))
    torch.testing.assert_close(own.inv(y), X)
    torch.testing.assert_close(own.log_abs_det_jacobian(X, y), theirs.log_abs_det_jacobian(X, y))


def test_small_probabilities_are_accurate_in_single_precision() -> None:
    """Down to 1e-30, where PyTorch's own transform rounds what is left to multiples of 1e-7."""
    x = torch.tensor([[16.0, 0.0, 0.0], [0.0, -40.0, 20.0], [-60.0, 3.0, 30.0]])
    expected = StickBreakingTransform()(x.double())
    torch.testing.assert_close(StickBreaking()(x).double(), expected, rtol=1e-4, atol=1e-15)
    # In double precision, PyTorch's transform has the same fault for probabilities below 1e-16.
    exact = torch.sigmoid(-(x.double() - torch.tensor([3.0, 2.0, 1.0]).log())).prod(-1)
    torch.testing.assert_close(StickBreaking()(x)[:, -1].double(), exact, rtol=1e-4, atol=0)
    torch.testing.assert_close(StickBreaking().inv(StickBreaking()(x)), x, rtol=1e-4, atol=1e-4)


def test_samples_of_a_sparse_dirichlet_keep_their_density() -> None:
    """Most of the mass is at probabilities that single precision can represent, but that are tiny beside one."""
    prior = dist.Dirichlet(torch.full((5,), 0.2))
    torch.manual_seed(0)
    y = prior.sample((2000,)).clamp(min=1e-30)
    y = y / y.sum(-1, keepdim=True)
    transform = StickBreaking()
    again = transform(transform.inv(y))
    torch.testing.assert_close(again.log(), y.log(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "prior",
    [
        dist.Gamma(0.2, 1.0),
        dist.InverseGamma(0.2, 1.0),
        dist.HalfCauchy(1.0),
        dist.Beta(0.2, 0.2),
        dist.Uniform(-1.0, 2.0),
        dist.Dirichlet(torch.full((2,), 0.2)),
        dist.Dirichlet(torch.full((5,), 0.2)),
        dist.LKJCholesky(3, 0.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_densities_fall_towards_infinity(prior: Any, dtype: torch.dtype) -> None:
    """A constant tail would make the posterior improper, and the bound of a wide posterior unlimited."""
    transform = bijection(prior.support)
    event = prior.event_shape if transform.domain.event_dim else torch.Size([1])
    size = transform.inverse_shape(event)[-1] if transform.domain.event_dim else 1
    generator = torch.Generator().manual_seed(0)
    for direction in torch.randn(50, size, generator=generator, dtype=dtype).sign():
        found = []
        for distance in (60.0, 80.0):
            u = distance * direction
            value = transform(u)
            density = prior.log_prob(value).sum() + transform.log_abs_det_jacobian(u, value).sum()
            found.append(float(density))
        assert not found[1] > found[0] - 1.0  # overflow to -inf or NaN is an error elsewhere, not a gain
