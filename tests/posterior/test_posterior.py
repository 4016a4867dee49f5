"""Quantities of posteriors: draws, densities in any support, sites in nested plates, tables."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import amortvi as avi
from amortvi.posterior import Posterior
from tests.exact import one_latent, with_parameters
from tests.posterior.problem import EXACT, MODEL, X, assert_gaussian

DOUBLE = torch.float64


def hierarchical(y: torch.Tensor) -> None:
    with pyro.plate("units", y.shape[0], dim=-2):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("times", y.shape[1], dim=-1):
            level = pyro.sample("level", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(level.sum(-1), scale), obs=y)


@pytest.fixture(scope="module")
def nested() -> Posterior:
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    return avi.AmortizedVI(hierarchical, avi.encoders.MLP(3, [8]), "full").setup(y, seed=0).posterior(y)


def test_draws(exact: avi.AmortizedVI) -> None:
    posterior = exact.posterior(X[:50])
    draws = posterior.sample(20_000, seed=0)["z"]
    assert_gaussian(draws, EXACT.mean[:50], EXACT.covariance_matrix[:50])
    below = (draws < posterior.quantiles([0.2])["z"][0]).double().mean(0)
    assert (below - 0.2).abs().max() < 5 * math.sqrt(0.16 / 20_000)


RANDOM: dict[str, Callable[[avi.AmortizedVI, int | None], torch.Tensor]] = {
    "sample": lambda vi, seed: vi.posterior(X[:5]).sample(3, seed=seed)["z"],
    "resample": lambda vi, seed: vi.posterior(X[:5]).sample(3, resample=True, seed=seed)["z"],
    "predict": lambda vi, seed: vi.predict(X[:5], draws=3, seed=seed)["x"],
    "sample_prior": lambda vi, seed: vi.sample_prior(3, seed=seed)["x"],
    "evaluate": lambda vi, seed: torch.tensor(vi.evaluate(X[:5], particles=3, seed=seed)["iwae"].to_numpy()),
}


@pytest.mark.parametrize("call", RANDOM.values(), ids=RANDOM.keys())
def test_a_seed_reproduces_results_and_leaves_the_random_state_untouched(
    wide: avi.AmortizedVI, call: Callable[[avi.AmortizedVI, int | None], torch.Tensor]
) -> None:
    state = torch.get_rng_state()
    first = call(wide, 11)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(call(wide, 11), first)
    assert not torch.equal(call(wide, 12), first)
    assert not torch.equal(call(wide, None), call(wide, None))


def test_estimates_are_reproducible_and_leave_the_random_state_untouched() -> None:
    simplex, parameters = one_latent(dist.Dirichlet(torch.ones(3))), torch.tensor([0.4, -0.3, -0.7, -1.2])
    found = with_parameters(simplex, parameters, torch.zeros(1), avi.families.Diagonal).posterior(torch.zeros(1))
    state = torch.get_rng_state()
    for quantity in (lambda: found.mean["z"], lambda: found.quantiles([0.5])["z"]):
        assert torch.equal(quantity(), quantity())
    assert torch.equal(torch.get_rng_state(), state)


def test_sites_in_nested_plates(nested: Posterior) -> None:
    assert {name: tuple(value.shape) for name, value in nested.mean.items()} == {"scale": (6,), "level": (6, 3, 2)}
    assert nested.quantiles([0.1, 0.9])["level"].shape == (2, 6, 3, 2)
    draws = nested.sample(4, seed=0)
    assert draws["level"].shape == (4, 6, 3, 2)
    vector = torch.cat([draws["scale"].log().reshape(4, 6, 1), draws["level"].flatten(2)], dim=-1)
    mean = torch.cat([nested.median["scale"].log().reshape(6, 1), nested.mean["level"].flatten(1)], -1)
    gaussian = torch.distributions.MultivariateNormal(mean, nested.covariance)
    expected = gaussian.log_prob(vector) - draws["scale"].log().reshape(4, 6)
    torch.testing.assert_close(nested.log_prob(draws), expected, rtol=1e-4, atol=1e-4)


def test_to_frame(exact: avi.AmortizedVI, nested: Posterior) -> None:
    frame = exact.posterior(X[[0, 7]]).to_frame(quantiles=[0.1, 0.9])
    assert list(frame.columns) == ["mean", "std", "10%", "90%"]
    assert frame.index.names == ["data", "latent"]
    assert list(frame.index[:3]) == [(0, "z[0]"), (0, "z[1]"), (0, "z[2]")]
    np.testing.assert_allclose(frame["mean"].to_numpy().reshape(2, 3), EXACT.mean[[0, 7]])
    np.testing.assert_allclose(frame["std"].to_numpy().reshape(2, 3), EXACT.variance[[0, 7]].sqrt())
    assert (frame["10%"] < frame["90%"]).all()
    frame = nested.to_frame()
    assert frame.shape == (6 * 7, 5)
    assert list(frame.loc[0].index) == ["scale", *(f"level[{i}, {j}]" for i in range(3) for j in range(2))]
    assert frame.loc[(4, "level[2, 1]"), "mean"] == pytest.approx(nested.mean["level"][4, 2, 1].item())


def test_a_compiled_encoder() -> None:
    encoder = nn.Linear(5, 4, dtype=DOUBLE)
    plain, compiled = (
        avi.AmortizedVI(MODEL, each, "diagonal").setup(X, seed=0).posterior(X).mean["z"]
        for each in (encoder, torch.compile(encoder, backend="eager"))
    )
    torch.testing.assert_close(compiled, plain)
