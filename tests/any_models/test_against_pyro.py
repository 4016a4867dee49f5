"""Bounds, densities and draws compared with Pyro's own, for every model."""

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam, ExponentialLR
from torch import Tensor

import amortvi as avi
from amortvi._util.modes import evaluation_mode
from tests.any_models import CASES, ROWS
from tests.any_models.estimators import every_model, fitted, seeded, weights_of

DRAWS = 100


def loss_of(vi: avi.AmortizedVI, name: str, elbo: Any) -> float:
    """Return Pyro's loss on the data of a model, in evaluation mode and from fixed noise."""
    program = vi.generative.program
    with evaluation_mode(vi.generative, vi.guide), program.own_parameters():
        pyro.set_rng_seed(3)
        return elbo.loss(program, vi.guide, *CASES[name].args, **CASES[name].kwargs)


@every_model
def test_elbos_sum_to_those_of_pyro(name: str) -> None:
    """From the same noise: the sum over observations, times the scale of the plate, plus the global terms."""
    case, vi = CASES[name], fitted(name)
    losses = {1: [Trace_ELBO()]}
    if name != "scales":  # Pyro scales a KL in closed form as the guide does, not as the model does
        losses[1].append(TraceMeanField_ELBO())  # the point masses of the guide have a KL that equals the sampled one
    if case.particles:
        losses[4] = [Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=case.nesting)]
    for draws, elbos in losses.items():
        weights = weights_of(vi, case, draws, seed=3)
        expected = case.scale * float(weights.log_weight.mean(0).sum()) + float(weights.global_log_prob)
        for elbo in elbos:
            assert -loss_of(vi, name, elbo) == pytest.approx(expected, rel=1e-5, abs=1e-3)


@every_model
def test_density_of_the_guide_equals_that_of_the_posterior(name: str) -> None:
    """Layouts, supports and Jacobians agree between a trace of the guide and `Posterior.log_prob`."""
    case, vi = CASES[name], fitted(name)
    with evaluation_mode(vi.guide), torch.no_grad():
        pyro.set_rng_seed(1)
        trace = poutine.trace(vi.guide).get_trace(*case.args, **case.kwargs)
        density = float(trace.log_prob_sum())
    sites = vi.guide.latents.sites
    found = vi.posterior(case.x).log_prob(
        {site.name: site.layout.to_observations(trace.nodes[site.name]["value"]) for site in sites}
    )
    assert found.shape == (ROWS,)
    assert case.scale * float(found.sum()) == pytest.approx(density, rel=1e-4, abs=1e-3)


@every_model
@pytest.mark.parametrize("mean_field", [False, True])
def test_guide_in_svi(name: str, mean_field: bool) -> None:
    case, elbo = CASES[name], TraceMeanField_ELBO() if mean_field else Trace_ELBO()
    model, encoder = seeded(lambda: (case.make(), case.make_encoder()))
    guide = avi.AmortizedGuide(model, encoder, "diagonal")
    pyro.set_rng_seed(0)
    guide.setup(*case.args, **case.kwargs)
    before = {key: value.detach().clone() for key, value in guide.named_parameters()}
    svi = SVI(model, guide, Adam({"lr": 0.02}), elbo)
    losses = [svi.step(*case.args, **case.kwargs) for _ in range(6)]
    assert np.isfinite(losses).all()
    unchanged = [key for key, value in guide.named_parameters() if torch.equal(value, before[key])]
    # A bias before batch normalization has no gradient except rounding errors.
    assert len(unchanged) <= 1
    assert not [key for key in pyro.get_param_store() if "encoder" in key or "family" in key]


def test_svi_finds_the_exact_posterior() -> None:
    """With ``z ~ N(0, 1)`` and ``x | z ~ N(z, 0.25)`` the posterior is ``N(0.8 x, 0.2)``."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.linspace(-2, 2, 50)
    pyro.set_rng_seed(0)
    guide = avi.AmortizedGuide(model, avi.encoders.MLP(1, []))
    decay = ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.985})
    elbo = Trace_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, decay, elbo)
    for _ in range(300):
        svi.step(x)
        decay.step()
    posterior = guide.get_posterior(x)
    torch.testing.assert_close(posterior.mean[:, 0], 0.8 * x, atol=0.05, rtol=0)
    torch.testing.assert_close(posterior.variance[:, 0].sqrt(), torch.full((50,), math.sqrt(0.2)), atol=0.05, rtol=0)


@every_model
@pytest.mark.parametrize("parallel", [False, True])
def test_guide_in_predictive(name: str, parallel: bool) -> None:
    """Means of draws through `Predictive` and through `Posterior.sample` agree."""
    case = CASES[name]
    if parallel and (not case.particles or case.nesting > 1):
        pytest.skip("the model accepts no batch dimension on the left")
    vi = fitted(name)
    program, sites = vi.generative.program, vi.guide.latents.sites
    with evaluation_mode(vi.generative, vi.guide), program.own_parameters():
        pyro.set_rng_seed(0)
        predictive = Predictive(
            program, guide=vi.guide, num_samples=DRAWS, return_sites=[*case.shapes], parallel=parallel
        )
        drawn = predictive(*case.args, **case.kwargs)
    own = vi.posterior(case.x).sample(DRAWS, seed=1)
    for site in sites:
        rows = [site.layout.to_observations(value) for value in drawn[site.name]]
        values = torch.stack(rows).reshape(DRAWS, ROWS, *site.shape)
        assert values.shape == own[site.name].shape
        error = ((values.var(0) + own[site.name].var(0)) / DRAWS).sqrt()
        # Thousands of comparisons, some of skewed distributions.
        assert ((values.mean(0) - own[site.name].mean(0)).abs() <= 7 * error + 1e-6).all()
