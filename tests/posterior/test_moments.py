"""Moments and quantiles of latent sites, against known distributions, quadrature and draws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.distributions import constraints
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, Normal

from amortvi.model import LatentSite, LatentVector
from amortvi.model.plates import PlateLayout
from amortvi.posterior.moments import site_moments, site_quantiles, site_summary
from tests.model.layouts import latent_vectors
from tests.properties import PROPERTY

DOUBLE = torch.float64
LEVELS = [0.05, 0.3, 0.5, 0.95]


def scalar(support: constraints.Constraint) -> LatentVector:
    """Return the latent vector of one scalar site ``z``."""
    return LatentVector([LatentSite("z", PlateLayout(-1, (), 0), torch.Size([]), support)])


def normal(mean: float, std: float) -> Distribution:
    """Return a normal posterior of one observation and one coordinate."""
    return Independent(Normal(torch.full((1, 1), mean, dtype=DOUBLE), torch.full((1, 1), std, dtype=DOUBLE)), 1)


def results(latents: LatentVector, q: Distribution) -> tuple[float, float, torch.Tensor]:
    mean, std = site_moments(latents, q)["z"]
    return float(mean), float(std), site_quantiles(latents, q, LEVELS)["z"].flatten()


MEANS, STDS = st.floats(-1.5, 1.5), st.floats(0.05, 0.8)


@PROPERTY
@given(MEANS, STDS, st.sampled_from([1, -1]))
def test_log_normal_sites(mean: float, std: float, sign: int) -> None:
    """A log-normal variable and, with an upper bound, its negative, whose transform decreases."""
    support = constraints.positive if sign > 0 else constraints.less_than(0.0)
    found, spread, quantiles = results(scalar(support), normal(mean, std))
    expected = math.exp(mean + std**2 / 2)
    assert found == pytest.approx(sign * expected, rel=1e-9)
    assert spread == pytest.approx(expected * math.sqrt(math.expm1(std**2)), rel=1e-7)
    normal_quantiles = mean + sign * std * torch.special.ndtri(torch.tensor(LEVELS, dtype=DOUBLE))
    torch.testing.assert_close(quantiles, sign * normal_quantiles.exp())


@PROPERTY
@given(MEANS, STDS, st.sampled_from(["unit interval", "interval", "greater than", "less than"]))
def test_moments_by_quadrature(mean: float, std: float, name: str) -> None:
    """The moments of the transformed variable, from the trapezoidal rule over twelve standard deviations."""
    supports = {
        "unit interval": constraints.unit_interval,
        "interval": constraints.interval(2.0, 5.0),
        "greater than": constraints.greater_than(1.5),
        "less than": constraints.less_than(-0.5),
    }
    latents = scalar(supports[name])
    grid = torch.linspace(mean - 12 * std, mean + 12 * std, 2001, dtype=DOUBLE)
    values = latents.constrain(grid.reshape(-1, 1, 1))[0]["z"].flatten()
    density = normal(mean, std).base_dist.log_prob(grid).exp().flatten()
    expected = torch.trapezoid(density * values, grid)
    variance = torch.trapezoid(density * (values - expected).square(), grid)
    found, spread, quantiles = results(latents, normal(mean, std))
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert spread == pytest.approx(float(variance.sqrt()), rel=1e-5)
    assert supports[name].check(quantiles).all()
    columns = torch.cat([torch.tensor([found, spread]), quantiles])
    torch.testing.assert_close(site_summary(latents, normal(mean, std), LEVELS).flatten(), columns.to(DOUBLE))


OTHERS: dict[str, tuple[constraints.Constraint, int, Distribution]] = {
    "Laplace": (constraints.positive, 2, Independent(Laplace(torch.zeros(1, 2).double(), 0.1), 1)),
    "simplex": (constraints.simplex, 3, Independent(Normal(torch.tensor([[0.4, -0.3]]).double(), 0.5), 1)),
    "correlated": (
        constraints.ordered_vector,
        2,
        MultivariateNormal(torch.zeros(1, 2).double(), torch.tensor([[[0.3, 0.1], [0.1, 0.2]]]).double()),
    ),
}


@pytest.mark.parametrize(("support", "size", "q"), OTHERS.values(), ids=OTHERS.keys())
def test_other_sites_are_estimated_from_draws(support: constraints.Constraint, size: int, q: Distribution) -> None:
    """Against the mean of many more draws, within the Monte Carlo error of the thousand draws used."""
    torch.manual_seed(0)
    draws = 1000
    latents = LatentVector([LatentSite("z", PlateLayout(-1, (), 1), torch.Size([size]), support)])
    reference = latents.constrain(q.sample((200_000,)))[0]["z"]
    mean, std = site_moments(latents, q)["z"]
    spread = reference.std(0)
    assert ((mean - reference.mean(0)).abs() < 5 * spread / math.sqrt(draws)).all()
    kurtosis = ((reference - reference.mean(0)) ** 4).mean(0) / spread**4
    assert ((std / spread - 1).abs() < 5 * ((kurtosis - 1) / 4 / draws).sqrt()).all()
    median = site_quantiles(latents, q, [0.5])["z"][0]
    below = (reference < median).double().mean(0)
    assert ((below - 0.5).abs() < 5 * math.sqrt(0.25 / draws)).all()


@PROPERTY
@given(latent_vectors(), st.integers(1, 3))
def test_shapes(latents: LatentVector, observations: int) -> None:
    torch.manual_seed(0)
    zeros = torch.zeros(observations, latents.dim, dtype=DOUBLE)
    q = Independent(Normal(zeros, torch.full_like(zeros, 0.3)), 1)
    moments, quantiles = site_moments(latents, q), site_quantiles(latents, q, LEVELS)
    for site in latents.sites:
        mean, std = moments[site.name]
        assert mean.shape == std.shape == (observations, *site.shape)
        assert (std >= 0).all()
        assert quantiles[site.name].shape == (len(LEVELS), observations, *site.shape)
        assert (quantiles[site.name].diff(dim=0) >= 0).all()
    elements = sum(site.shape.numel() for site in latents.sites)
    assert site_summary(latents, q, LEVELS).shape == (observations, elements, 2 + len(LEVELS))
