"""The prior density of each unconstrained coordinate, against known densities."""

import math
from typing import Any

import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import distributions as dist

from amortvi.data import Batch
from amortvi.model import Model, PriorRuns, priors_depend_on_latents
from tests.any_models import CASES
from tests.exact import one_latent
from tests.properties import PROPERTY

OBSERVATIONS = 3
DOUBLE = torch.float64


def runs_of(program: Any, *args: torch.Tensor, runs: int = 1) -> PriorRuns:
    batch = Batch(args or (torch.zeros(OBSERVATIONS, dtype=DOUBLE),))
    model = Model(program).setup(batch, batch.size)
    with model.inference_mode():
        return PriorRuns(model, batch, runs)


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=DOUBLE)


@PROPERTY
@given(loc=st.floats(-2, 2), scale=st.floats(0.1, 3))
def test_scalar_priors(loc: float, scale: float) -> None:
    """The density of ``u`` is that of ``T(u)`` times the derivative of the transform ``T``."""
    u = torch.linspace(-2.0, 2.0, 7, dtype=DOUBLE).reshape(7, 1, 1).expand(7, OBSERVATIONS, 1)
    normal, gamma = dist.Normal(one(loc), one(scale)), dist.Gamma(one(scale), one(2.0))
    priors = {
        normal: normal.log_prob(u),
        # The logarithm of a log-normal variable is normal.
        dist.LogNormal(one(loc), one(scale)): normal.log_prob(u),
        # The logit of a uniform variable has the standard logistic distribution.
        dist.Uniform(one(loc), one(loc + scale)): u - 2 * torch.nn.functional.softplus(u),
        gamma: gamma.log_prob(u.exp()) + u,
    }
    for prior, expected in priors.items():
        torch.testing.assert_close(runs_of(one_latent(prior)).log_prob(u), expected)


def test_densities_integrate_to_one() -> None:
    grid = torch.linspace(-40, 40, 1001, dtype=DOUBLE)
    u = grid.reshape(-1, 1, 1).expand(-1, OBSERVATIONS, 1)
    for prior in (dist.Beta(one(2.0), one(3.0)), dist.Exponential(one(2.0)), dist.Pareto(one(1.5), one(2.0))):
        density = runs_of(one_latent(prior)).log_prob(u)[:, 0, 0].exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)


def test_coordinates_of_a_correlated_normal_prior_have_its_marginals() -> None:
    factor = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=DOUBLE)
    prior = dist.MultivariateNormal(torch.tensor([1.0, -1.0], dtype=DOUBLE), scale_tril=factor)
    u = torch.randn(4, OBSERVATIONS, 2, dtype=DOUBLE)
    expected = dist.Normal(prior.mean, prior.variance.sqrt()).log_prob(u)
    torch.testing.assert_close(runs_of(one_latent(prior)).log_prob(u), expected)
    # The marginals of a Dirichlet, in unconstrained coordinates, are unknown.
    assert runs_of(one_latent(dist.Dirichlet(torch.ones(3, dtype=DOUBLE)))).log_prob(u).isnan().all()


def test_hierarchical_priors_are_averaged_over_the_other_latents() -> None:
    """The marginal prior of ``z`` is ``N(0, 5)``; its estimate has the Monte Carlo error of a mean over runs."""

    def hierarchical(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            top = pyro.sample("top", dist.Normal(one(0.0), 1.0))
            pyro.sample("z", dist.Normal(2 * top, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    runs = 20_000
    u = torch.linspace(-4.0, 4.0, 5, dtype=DOUBLE).reshape(5, 1, 1).expand(5, OBSERVATIONS, 2)
    torch.manual_seed(0)
    found = runs_of(hierarchical, runs=runs)
    density = found.conditional_log_prob(u).exp()
    assert density.shape == (5, runs, OBSERVATIONS, 2)
    torch.testing.assert_close(found.log_prob(u)[..., 0], dist.Normal(0.0, 1.0).log_prob(u[..., 0]))
    error = density[..., 1].std(1) / math.sqrt(runs)
    exact = dist.Normal(0.0, math.sqrt(5.0)).log_prob(u[..., 1]).exp()
    assert ((found.log_prob(u)[..., 1].exp() - exact).abs() < 5 * error).all()
    # The draws themselves have the moments of the prior.
    count = runs * OBSERVATIONS
    for draws, variance in zip(found.vector.reshape(count, 2).unbind(1), (1.0, 5.0), strict=True):
        assert draws.mean().abs() < 5 * math.sqrt(variance / count)
        assert abs(draws.var() - variance) < 5 * variance * math.sqrt(2 / count)


def test_covariates_and_nested_plates_are_respected() -> None:
    """The prior mean is the covariate of each observation plus the position in the nested plate."""
    t = torch.arange(3.0, dtype=DOUBLE)
    position = torch.arange(2.0, dtype=DOUBLE)

    def program(t: torch.Tensor) -> None:
        with pyro.plate("data", t.shape[0], dim=-2):
            with pyro.plate("parts", 2, dim=-1):
                z = pyro.sample("z", dist.LogNormal(t.unsqueeze(-1) + position, 0.5))
            pyro.sample("x", dist.Normal(z[..., :1] * 0, 1.0), obs=torch.zeros(t.shape[0], 1))

    u = torch.randn(6, 3, 2, dtype=DOUBLE)
    expected = dist.Normal(t.unsqueeze(-1) + position, 0.5).log_prob(u)
    torch.testing.assert_close(runs_of(program, t).log_prob(u), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("many supports", False),
        ("covariates", False),
        ("a plate on the right", False),
        ("one latent on another", True),
        ("a plate on the left", True),
    ],
)
def test_dependence_on_other_latents(name: str, expected: bool) -> None:
    torch.manual_seed(0)
    batch = Batch(CASES[name].args)
    model = Model(CASES[name].make()).setup(batch, batch.size)
    with model.inference_mode():
        assert priors_depend_on_latents(model, batch) is expected
