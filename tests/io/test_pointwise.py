"""The log-likelihood of single elements, and what ArviZ computes from it."""

from typing import Any

import arviz
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from torch import Tensor

import amortvi as avi
from tests.arviz_versions import IS_OLD, groups, loo
from tests.exact import solved
from tests.io.exports import normal

SMALL: dict[str, Any] = {"prior_draws": 0, "posterior_predictive": False, "seed": 0}


def loo_pit(data: Any, site: str) -> np.ndarray:
    return np.asarray(arviz.loo_pit(data, y=site) if IS_OLD else arviz.loo_pit(data, var_names=site)[site])


def both(model: Any, x: Any, features: int, draws: int = 5) -> tuple[Any, Any]:
    """Return the log-likelihoods of elements and of observations, which must have equal sums."""
    vi = avi.AmortizedVI(model, avi.encoders.MLP(features, [])).setup(x, seed=0)
    elements, whole = (
        groups(vi.to_arviz(x, draws=draws, pointwise=pointwise, **SMALL))["log_likelihood"]
        for pointwise in (True, False)
    )
    for name, value in whole.data_vars.items():
        rest = [dim for dim in elements[name].dims if dim not in value.dims]
        np.testing.assert_allclose(elements[name].sum(rest), value, rtol=1e-4, atol=1e-4)
    return elements, whole


def test_elements_of_events_and_nested_plates() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("units", x.shape[0], dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("times", 4, dim=-1):
                mean = z.unsqueeze(-1).expand(-1, 4, 3)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
                pyro.sample("y", dist.Normal(z.unsqueeze(-1), 1.0).expand([x.shape[0], 4, 2]).to_event(1), obs=y)

    x, y = normal(6, 4, 3), normal(6, 4, 2)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(20, []), plate="units").setup((x, y), seed=0)
    found = groups(vi.to_arviz((x, y), draws=5, pointwise=True, **SMALL))
    assert found["log_likelihood"]["x"].dims == ("chain", "draw", "units", "times", "x_dim_0")
    z = found["posterior"]["z"].values[..., None, None]
    for name, value in (("x", x), ("y", y)):
        np.testing.assert_allclose(found["log_likelihood"][name], stats.norm.logpdf(value.numpy(), z), rtol=1e-4)
    total = found["log_likelihood"].sum(("times", "x_dim_0", "y_dim_0"))
    whole = groups(vi.to_arviz((x, y), draws=5, **SMALL))["log_likelihood"]
    np.testing.assert_allclose(total["x"], whole["x"], rtol=1e-4)


def test_a_multivariate_distribution_keeps_one_value_per_event() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = z[..., None, None].expand(-1, 3, 2)
            pyro.sample("x", dist.MultivariateNormal(mean, torch.eye(2)).to_event(1), obs=x)

    elements, _ = both(model, normal(6, 3, 2), 6)
    assert elements["x"].dims == ("chain", "draw", "data", "x_dim_0")


@pytest.mark.parametrize("inside", [True, False])
def test_masks_and_scales(inside: bool) -> None:
    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            noise = dist.Normal(z.unsqueeze(-1).expand(-1, 3), 1.0)
            if inside:
                pyro.sample("x", noise.mask(mask).to_event(1), obs=x)
            else:
                with pyro.poutine.scale(scale=0.5), pyro.poutine.mask(mask=mask[:, 0]):
                    pyro.sample("x", noise.to_event(1), obs=x)

    mask = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    elements, _ = both(model, (normal(6, 3), mask), 6)
    zero = (elements["x"].values == 0).all((0, 1))
    np.testing.assert_array_equal(zero, ~(mask if inside else mask[:, :1].expand(6, 3)).numpy())


def test_sites_that_depend_on_discrete_latents_keep_one_value_per_observation() -> None:
    def model(x: Tensor, w: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            mean = z.unsqueeze(-1) + torch.tensor([[-1.0], [1.0]])[k]
            pyro.sample("x", dist.Normal(mean, torch.ones(2)).to_event(1), obs=x)
            pyro.sample("w", dist.Normal(z.unsqueeze(-1), torch.ones(3)).to_event(1), obs=w)

    elements, _ = both(model, (normal(6, 2), normal(6, 3)), 5)
    assert elements["x"].dims == ("chain", "draw", "data")
    assert elements["w"].dims == ("chain", "draw", "data", "w_dim_0")


EXACT = avi.models.LinearGaussian(torch.ones(5, 1, dtype=torch.float64), scale=2.0)
X = EXACT.simulate(40, seed=1)


def test_loo_of_elements_is_that_of_the_exact_model() -> None:
    """Left out is one element; the others still inform the latent, so k-hats are low and PSIS can be trusted."""
    data = solved(EXACT).to_arviz(X, draws=1000, pointwise=True, **SMALL)
    W, found = EXACT.W.detach(), loo(data)
    joint = torch.distributions.MultivariateNormal(
        EXACT.bias, W @ W.mT + EXACT.scale**2 * torch.eye(5, dtype=torch.float64)
    )
    truth = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        cov = joint.covariance_matrix[others][:, others]
        marginal = torch.distributions.MultivariateNormal(EXACT.bias[others], cov)
        truth.append(joint.log_prob(X) - marginal.log_prob(X[:, others]))
    assert found.pointwise.dims == ("data", "x_dim_0")
    assert found.pareto_k.max() < 0.7
    np.testing.assert_allclose(found.pointwise, torch.stack(truth, -1), atol=0.15)


def test_loo_pit_of_the_exact_posterior_is_uniform() -> None:
    frame = pd.DataFrame(X.numpy(), columns=list("abcde"))
    data = solved(EXACT).to_arviz(frame, draws=200, prior_draws=0, pointwise=True, seed=0)
    pit = loo_pit(data, "x")
    assert pit.shape == (40, 5)
    # Elements of one observation are dependent, so each column is tested.
    assert min(stats.kstest(pit[:, i], "uniform").pvalue for i in range(5)) > 1e-3


def test_loo_pit_of_scalar_observations_needs_no_elements() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 3.0), obs=x)

    x = normal(30)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(1, [])).setup(x, seed=0)
    pit = loo_pit(vi.to_arviz(x, draws=100, prior_draws=0, seed=0), "x")
    assert pit.shape == (30,)
    assert ((pit >= 0) & (pit <= 1)).all()
