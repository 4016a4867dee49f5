"""Covariances of sites in their own support, against closed forms, quadrature and draws."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import distributions as dist
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, Normal

import amortvi as avi
from amortvi.model import LatentSite, LatentVector
from amortvi.model.plates import PlateLayout
from amortvi.posterior.moments import DRAWS, site_moments
from amortvi.posterior.site_covariance import site_covariance
from tests.exact import one_latent, with_parameters
from tests.model.layouts import latent_vectors
from tests.posterior.problem import EXACT, X
from tests.properties import PROPERTY

DOUBLE = torch.float64


def site(name: str, size: int, support: constraints.Constraint) -> LatentSite:
    return LatentSite(name, PlateLayout(-1, (), 1), torch.Size([size]), support)


def gaussian(dim: int, seed: int, scale: float = 1.0, batch: int = 2) -> MultivariateNormal:
    """Return correlated Gaussians with standard deviations of about ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(batch, dim, dim, generator=generator, dtype=DOUBLE)
    covariance = factor @ factor.mT + 0.1 * torch.eye(dim, dtype=DOUBLE)
    loc = torch.randn(batch, dim, generator=generator, dtype=DOUBLE)
    return MultivariateNormal(loc, scale**2 * covariance / dim)


@PROPERTY
@given(st.integers(0, 1000), st.floats(0.05, 1.5), st.sampled_from([1, -1]))
def test_log_normal_and_real_sites(seed: int, scale: float, sign: int) -> None:
    """The covariance of log-normal variables, and of one with a normal variable (Stein's lemma)."""
    q = gaussian(4, seed, scale)
    support = constraints.positive if sign > 0 else constraints.less_than(0.0)
    latents = LatentVector([site("a", 2, support), site("b", 2, constraints.real)])
    covariance, mean = q.covariance_matrix, q.mean
    # With an upper bound, the transform is -exp(u).
    center = sign * (mean[:, :2] + covariance.diagonal(dim1=-2, dim2=-1)[:, :2] / 2).exp()
    expected = covariance.clone()
    expected[:, :2, :2] = center.unsqueeze(-1) * center.unsqueeze(-2) * torch.expm1(covariance[:, :2, :2])
    expected[:, :2, 2:] = center.unsqueeze(-1) * covariance[:, :2, 2:]
    expected[:, 2:, :2] = expected[:, :2, 2:].mT
    torch.testing.assert_close(site_covariance(latents, q), expected, rtol=1e-7, atol=1e-9)


@PROPERTY
@given(latent_vectors(), st.integers(0, 1000))
def test_covariances_are_positive_semidefinite_with_the_known_variances(latents: LatentVector, seed: int) -> None:
    torch.manual_seed(seed)
    q = gaussian(latents.dim, seed, 0.5)
    found = site_covariance(latents, q)
    elements = sum(each.shape.numel() for each in latents.sites)
    assert found.shape == (2, elements, elements)
    torch.testing.assert_close(found, found.mT)
    scale = found.diagonal(dim1=-2, dim2=-1).amax(-1)
    assert (torch.linalg.eigvalsh(found).amin(-1) > -1e-10 * scale).all()
    if all(each.is_elementwise for each in latents.sites):
        std = torch.cat([value[1].reshape(2, -1) for value in site_moments(latents, q).values()], dim=-1)
        torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1).sqrt(), std)


def monte_carlo(latents: LatentVector, q: Distribution, draws: int) -> tuple[Tensor, Tensor]:
    """Return the covariance of draws, and the standard deviation of one product of deviations."""
    values, _ = latents.constrain(q.sample(torch.Size([draws])))
    flat = torch.cat([value.reshape(*value.shape[:2], -1) for value in values.values()], dim=-1)
    deviation = flat - flat.mean(0)
    products = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    return products.mean(0), products.std(0)


ELEMENTWISE = [
    site("a", 2, constraints.interval(-1.0, 3.0)),
    site("b", 1, constraints.unit_interval),
    site("c", 1, constraints.greater_than(1.5)),
]
SAMPLED: dict[str, tuple[list[LatentSite], Distribution]] = {
    "simplex": ([site("w", 3, constraints.simplex), site("b", 1, constraints.positive)], gaussian(3, 1, 0.3)),
    "Laplace": (ELEMENTWISE, Independent(Laplace(torch.zeros(2, 4, dtype=DOUBLE), 0.03), 1)),
    "flow": (ELEMENTWISE, avi.families.make_family("flow", 4, 2).double()(torch.zeros(2, 2, dtype=DOUBLE))),
}


def test_elementwise_transforms_agree_with_draws() -> None:
    torch.manual_seed(0)
    latents, q, draws = LatentVector(ELEMENTWISE), gaussian(4, 0), 100_000
    expected, spread = monte_carlo(latents, q, draws)
    found = site_covariance(latents, q)
    assert ((found - expected).abs() < 5 * spread / math.sqrt(draws)).all()
    torch.manual_seed(1)
    assert torch.equal(site_covariance(latents, q), found)  # without draws


@pytest.mark.parametrize(("sites", "q"), SAMPLED.values(), ids=SAMPLED.keys())
def test_other_posteriors_are_estimated_from_draws(sites: list[LatentSite], q: Distribution) -> None:
    torch.manual_seed(0)
    latents = LatentVector(sites)
    with torch.no_grad():
        expected, spread = monte_carlo(latents, q, 100_000)
        found = site_covariance(latents, q)
    assert ((found - expected).abs() < 5 * spread / math.sqrt(DRAWS)).all()
    if sites[0].name == "w":
        torch.testing.assert_close(found[:, :3].sum(1), torch.zeros(2, 4, dtype=DOUBLE), rtol=0, atol=1e-12)


def test_posteriors(exact: avi.AmortizedVI) -> None:
    found = exact.posterior(X[:5])
    torch.testing.assert_close(found.site_covariance, EXACT.covariance_matrix[:5])
    assert found.labels == found.unconstrained_labels == ["z[0]", "z[1]", "z[2]"]


@pytest.mark.parametrize(
    ("prior", "labels", "unconstrained"),
    [
        (dist.Dirichlet(torch.ones(3)), ["z[0]", "z[1]", "z[2]"], ["z[0] (unconstrained)", "z[1] (unconstrained)"]),
        (dist.LogNormal(0.0, 1.0), ["z"], ["z (unconstrained)"]),
        (dist.Normal(torch.zeros(2), 1.0).to_event(1), ["z[0]", "z[1]"], ["z[0]", "z[1]"]),
    ],
)
def test_labels(prior: Any, labels: list[str], unconstrained: list[str]) -> None:
    x, dim = torch.zeros(3), len(unconstrained)
    parameters = torch.cat([torch.zeros(dim), torch.full((dim,), -1.0)])
    found = with_parameters(one_latent(prior), parameters, x, avi.families.Diagonal).posterior(x)
    assert (found.labels, found.unconstrained_labels) == (labels, unconstrained)
    assert found.covariance.shape == (3, dim, dim)
    assert found.site_covariance.shape == (3, len(labels), len(labels))
    assert list(found.to_frame().loc[0].index) == labels
    assert torch.equal(found.site_covariance, found.site_covariance)


def test_normal_marginals_are_exact_in_single_precision() -> None:
    q = Independent(Normal(torch.tensor([[100.0, -3.0]]), torch.tensor([[1e-3, 2.0]])), 1)
    latents = LatentVector([site("a", 1, constraints.real), site("b", 1, constraints.positive)])
    found = site_covariance(latents, q)
    assert found.dtype == torch.float32
    variance = math.exp(-6 + 4) * math.expm1(4)
    torch.testing.assert_close(found, torch.tensor([[[1e-6, 0.0], [0.0, variance]]]), rtol=1e-5, atol=1e-12)
