"""The likelihoods of a VAE: densities from their formulas, and draws that follow them."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch
from amortvi.errors import DataError
from amortvi.model import Model
from amortvi.model.library import VAE, Likelihood, Normal
from tests.model.library.vaes import CLASSES, FEATURES, LATENTS, data, formula, log_probs


def test_intensities_score_as_expected_bits() -> None:
    """The log density of gray is the mean of those of black and white."""
    model, z = VAE(nn.Linear(LATENTS, FEATURES), LATENTS), torch.randn(5, LATENTS)
    x = torch.rand(5, FEATURES)
    black, white = (log_probs(model, torch.full_like(x, value), z)[1] for value in (0.0, 1.0))
    half = log_probs(model, torch.full_like(x, 0.5), z)[1]
    torch.testing.assert_close(half, (black + white) / 2)
    torch.testing.assert_close(log_probs(model, x, z)[1], formula("bernoulli", model.decoder(z), x).sum(-1))


@pytest.mark.parametrize("factor", [16.0, -1.0])
def test_intensities_beyond_one_are_refused(factor: float) -> None:
    """Their "density" is unbounded, so a fit would diverge."""
    vi = avi.AmortizedVI(VAE(nn.Linear(2, FEATURES), 2), avi.encoders.MLP(FEATURES, [4]))
    x = torch.rand(20, FEATURES) * factor
    with pytest.raises(DataError, match=r"observed site 'x' .*has support .*lower_bound=0.0, upper_bound=1.0"):
        vi.setup(x)


def test_a_fixed_scale_is_not_a_parameter() -> None:
    likelihood = Normal(0.7, learned=False)
    assert not list(likelihood.parameters())
    torch.testing.assert_close(likelihood(torch.zeros(2)).scale, torch.full((2,), 0.7))


def test_a_custom_likelihood() -> None:
    class Laplace(Likelihood):
        """Location and log scale of each entry."""

        def forward(self, decoded: Tensor) -> dist.Laplace:
            location, log_scale = decoded.unbind(-1)
            return dist.Laplace(location, log_scale.exp())

    decoder = nn.Linear(LATENTS, 2 * FEATURES)
    model, x, z = VAE(decoder, LATENTS, Laplace()), data("normal"), torch.randn(5, LATENTS)
    location, log_scale = decoder(z).reshape(5, FEATURES, 2).unbind(-1)
    expected = -(x - location).abs() / log_scale.exp() - log_scale - math.log(2)
    torch.testing.assert_close(log_probs(model, x, z)[1], expected.sum(-1))
    torch.testing.assert_close(model.decode(z), location.detach())


def log_evidence(model: VAE, x: Tensor) -> Tensor:
    """Return ``log p(x)`` of each row for a model with one latent, by quadrature."""
    z = torch.linspace(-6, 6, 121).unsqueeze(-1)
    entries = model.likelihood(model.decoder(z).reshape(len(z), 1, FEATURES, -1).squeeze(-1))
    log_joint = entries.log_prob(x).sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z)
    return log_joint.logsumexp(0) + math.log(12 / 120)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "categorical", "poisson"])
def test_draws_follow_the_density(likelihood: str) -> None:
    """The gradient of ``log p(x)`` at the true parameters is zero on average over draws from the model."""
    torch.manual_seed(0)
    observations, groups = 2000, 50
    model = VAE(nn.Linear(1, FEATURES * (CLASSES if likelihood == "categorical" else 1)), 1, likelihood)
    batch = Batch((data(likelihood, observations),))
    generative = Model(model).setup(batch, observations)
    with generative.inference_mode():
        x = generative.simulate(batch, None, 1)["x"][0]
    parameters = list(model.parameters())
    scores = [torch.autograd.grad(log_evidence(model, rows).mean(), parameters) for rows in x.chunk(groups)]
    for of_one in zip(*scores, strict=True):
        score = torch.stack(of_one)
        error = score.std(0) / math.sqrt(groups)
        assert (score.mean(0).abs() < 6 * error).all()
        assert (error > 0).all()
