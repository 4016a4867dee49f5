"""Models whose latents have a mixture as prior, from the fit to the verdicts on it."""

import math

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.diagnostics import simulate_observations
from amortvi.diagnostics.calibration import Calibration, calibrate
from amortvi.diagnostics.latents.coordinates import coordinate_usage
from tests.any_models.data import FEATURES, real
from tests.any_models.estimators import seeded
from tests.any_models.parameters import PseudoInputs
from tests.exact import Fixed, hand_set

DOUBLE = torch.float64
WEIGHTS = torch.tensor([0.3, 0.7], dtype=DOUBLE)
LOCS = torch.tensor([-20.0, 20.0], dtype=DOUBLE)
"""Far enough apart for the data to show the component, so that every posterior is Gaussian."""
SPREAD, NOISE = 1.5, 0.8
VARIANCE = 1 / (SPREAD**-2 + NOISE**-2)


def two_clusters(x: Tensor) -> None:
    components = dist.Normal(LOCS, torch.full_like(LOCS, SPREAD))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), components))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def log_evidence(x: Tensor) -> Tensor:
    scale = torch.full_like(LOCS, math.hypot(SPREAD, NOISE))
    return torch.logsumexp(WEIGHTS.log() + dist.Normal(LOCS, scale).log_prob(x.unsqueeze(-1)), dim=-1)


class ExactPosterior(nn.Module):
    """Returns location and log scale of the exact posterior, with the scale multiplied by ``widen``."""

    def __init__(self, widen: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(widen * math.sqrt(VARIANCE)), dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        loc = VARIANCE * (x / NOISE**2 + LOCS[(x > 0).long()] / SPREAD**2)
        return torch.stack([loc, self.log_scale.expand_as(loc)], dim=-1)


X = torch.tensor([-22.0, -19.0, 18.0, 20.5, 23.0], dtype=DOUBLE)


def solved(widen: float = 1.0) -> avi.AmortizedVI:
    return hand_set(two_clusters, ExactPosterior(widen), avi.families.Diagonal, X)


def test_the_elbo_of_the_exact_posterior_is_the_evidence() -> None:
    found = solved().evaluate(X, particles=20, seed=0)
    np.testing.assert_allclose(found["elbo"], log_evidence(X), rtol=1e-9)
    assert (found["elbo_se"] < 1e-9).all()


def test_importance_weights_estimate_the_evidence() -> None:
    """A proposal that covers both components, of data between them."""
    x, particles = torch.tensor([-1.0, 0.0, 2.0], dtype=DOUBLE), 20_000
    wide = Fixed(torch.tensor([0.0, math.log(20.0)], dtype=DOUBLE))
    vi = hand_set(two_clusters, wide, avi.families.Diagonal, x)

    def ratio(weighted: object) -> dict[str, Tensor]:
        weight = (weighted.log_weight - log_evidence(x)).exp()
        return {"mean": weight.mean(0), "error": weight.std(0) / math.sqrt(particles)}

    found = vi.posterior(x).importance_sample(particles, ratio)
    assert ((found["mean"] - 1).abs() < 5 * found["error"]).all()
    assert (found["error"] < 0.1).all()


def test_simulations_come_from_both_components() -> None:
    """Of `n` simulations, a binomial number is near each component, with the spread of its data around it."""
    n = 4000
    simulated = simulate_observations(solved(), n, seed=0)
    x, z = simulated.batch.args[0], simulated.values["z"]
    upper = x > 0
    assert abs(upper.double().mean() - WEIGHTS[1]) < 5 * math.sqrt(WEIGHTS.prod().item() / n)
    residual = (x - LOCS[upper.long()]) / math.hypot(SPREAD, NOISE)
    assert abs(residual.mean()) < 5 / math.sqrt(n)
    assert abs(residual.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs(((x - z) / NOISE).var() - 1) < 5 * math.sqrt(2 / n)


def calibration(widen: float) -> Calibration:
    return calibrate(solved(widen), 300, 40, seed=0)


def test_calibration_of_exact_and_of_wide_posteriors() -> None:
    assert min(test.p_value for test in calibration(1.0).tests) > 1e-6
    assert min(test.p_value for test in calibration(2.0).tests) < 1e-6


def test_usage_is_that_of_the_mixture() -> None:
    """The KL to the mixture is the entropy of the component plus the KL to that component."""
    usage = coordinate_usage(solved().posterior(X), 20)
    ratio = VARIANCE / SPREAD**2
    loc = ExactPosterior()(X).detach()[:, 0]
    upper = (X > 0).long()
    within = 0.5 * (ratio - 1 - math.log(ratio) + ((loc - LOCS[upper]) / SPREAD).square())
    torch.testing.assert_close(usage.kl, (within - WEIGHTS[upper].log()).mean().reshape(1), rtol=1e-6, atol=1e-6)


def test_pseudo_inputs_are_trained_with_the_encoder_that_they_share() -> None:
    """The prior follows the encoder, and the fit improves the bound."""

    def make() -> avi.AmortizedVI:
        trunk = nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh())
        return avi.AmortizedVI(PseudoInputs(trunk), trunk, "full")

    vi, x = seeded(make), 2 * real()
    vi.setup(x, seed=0)
    model = vi.model
    before, inputs = vi.evaluate(x, particles=200, seed=0), model.inputs.detach().clone()
    vi.fit(x, epochs=150, lr=0.02, seed=0, progress=False)
    after = vi.evaluate(x, particles=200, seed=0)
    assert vi.encoder is model.trunk
    assert (model.inputs.detach() - inputs).abs().max() > 0.05
    gain = after["elbo"].mean() - before["elbo"].mean()
    assert gain > 5 * math.hypot(*(table["elbo_se"].mean() for table in (before, after)))
    # The prior density is that of the mixture of the trained components.
    z = torch.randn(4, len(x), 2)
    with vi.generative.inference_mode():
        scores = vi.generative.log_probs(vi.posterior(x).observations.as_batch(), {"z": z})
        hidden = model.trunk(model.inputs)
        parts = dist.Normal(model.loc(hidden), model.log_scale(hidden).exp()).log_prob(z.unsqueeze(-2)).sum(-1)
    torch.testing.assert_close(scores.local["z"], torch.logsumexp(parts, dim=-1) - math.log(len(model.inputs)))
