"""Posterior and evidence of the linear-Gaussian model, against formulas that it does not use."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from amortvi.errors import OptionError
from amortvi.families import Diagonal
from amortvi.model.library import LinearGaussian
from tests.exact import closest, linear_gaussian
from tests.model.library.vaes import log_probs

DTYPE = torch.float64


def _joint(model: LinearGaussian) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and covariance of ``(z, x)``, a linear map of independent noise."""
    features, latents = model.W.shape
    push = torch.zeros(latents + features, latents + features, dtype=DTYPE)
    push[:latents, :latents] = torch.eye(latents, dtype=DTYPE)
    push[latents:, :latents] = model.W
    push[latents:, latents:] = model.scale * torch.eye(features, dtype=DTYPE)
    return torch.cat([torch.zeros(latents, dtype=DTYPE), model.bias]), push @ push.mT


@pytest.mark.parametrize("shape", [(3, 5), (2, 2), (4, 2), (1, 1)])
def test_posterior_is_the_joint_gaussian_conditioned_on_x(shape: tuple[int, int]) -> None:
    latents, features = shape
    model = linear_gaussian(latents, features)
    mean, covariance = _joint(model)
    x = model.simulate(7, seed=1)
    gain = covariance[:latents, latents:] @ torch.linalg.inv(covariance[latents:, latents:])
    posterior = model.posterior(x)
    assert posterior.batch_shape == (7,)
    torch.testing.assert_close(posterior.mean, (x - mean[latents:]) @ gain.mT)
    expected = covariance[:latents, :latents] - gain @ covariance[latents:, :latents]
    torch.testing.assert_close(posterior.covariance_matrix, expected.expand(7, latents, latents))
    torch.testing.assert_close(model.precision(), torch.linalg.inv(expected))


def test_evidence_is_the_integral_over_the_latent() -> None:
    """The integral of p(z) p(x | z) over one latent, on a fine grid."""
    model = linear_gaussian(1, 3)
    x = model.simulate(20, seed=2)
    z = torch.linspace(-12.0, 12.0, 200_001, dtype=DTYPE).unsqueeze(-1)
    likelihood = Normal(z @ model.W.mT + model.bias, model.scale)
    for row, evidence in zip(x, model.log_evidence(x), strict=True):
        log_joint = Normal(0.0, 1.0).log_prob(z).sum(-1) + likelihood.log_prob(row).sum(-1)
        torch.testing.assert_close(torch.logsumexp(log_joint, 0) + math.log(24 / 200_000), evidence)


def test_densities_of_the_pyro_program() -> None:
    model = linear_gaussian()
    x, z = model.simulate(4, seed=3), torch.randn(4, 3, dtype=DTYPE)
    prior, likelihood = log_probs(model, x, z)
    torch.testing.assert_close(prior, Normal(0.0, 1.0).log_prob(z).sum(-1))
    expected = Normal(torch.einsum("fl,bl->bf", model.W, z) + model.bias, 0.8).log_prob(x).sum(-1)
    torch.testing.assert_close(likelihood, expected)
    # Bayes' rule holds for any latent.
    torch.testing.assert_close(prior + likelihood - model.posterior(x).log_prob(z), model.log_evidence(x))


@pytest.mark.parametrize("latents", [1, 2, 5])
def test_diagonal_gap_is_the_smallest_kl_of_a_diagonal_gaussian(latents: int) -> None:
    """The KL to the exact posterior, minimized numerically over the scales; the best location is the exact mean."""
    model = linear_gaussian(latents, 6)
    exact = model.posterior(model.bias.unsqueeze(0))
    best = closest(Diagonal(head=False).setup(latents, 2 * latents), model.precision())
    scale = best[latents:].exp()
    torch.testing.assert_close(scale.square(), 1 / model.precision().diagonal())
    gap = kl_divergence(MultivariateNormal(exact.mean, scale_tril=torch.diag(scale)), exact)
    assert gap.item() == pytest.approx(model.diagonal_gap(), abs=1e-10)


def test_simulations_have_the_moments_of_the_model() -> None:
    model, draws = linear_gaussian(), 200_000
    x = model.simulate(draws, seed=5)
    mean, covariance = model.bias, _joint(model)[1][3:, 3:]
    assert ((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / draws).sqrt()).all()
    deviation = x - mean
    estimates = torch.einsum("bi,bj->ij", deviation, deviation) / draws
    # The variance of the product of two centered Gaussians is C_ii C_jj + C_ij ** 2.
    variance = covariance.diagonal().outer(covariance.diagonal()) + covariance.square()
    assert ((estimates - covariance).abs() < 5 * (variance / draws).sqrt()).all()


def test_simulations_depend_on_the_seed_alone() -> None:
    model, state = linear_gaussian(), torch.get_rng_state()
    first, second, other = (model.simulate(5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(model.simulate(5), model.simulate(5))


def test_parameters_are_fixed_copies() -> None:
    W = torch.ones(3, 2)
    model = LinearGaussian(W, scale=1, bias=torch.zeros(3, dtype=DTYPE))
    W.zero_()
    assert (model.W == 1).all()
    assert list(model.parameters()) == []
    for dtype in (torch.float32, torch.float64):
        x = model.to(dtype).simulate(5, seed=0)
        assert x.dtype == model.log_evidence(x).dtype == model.posterior(x).mean.dtype == dtype


@pytest.mark.parametrize(
    ("W", "scale", "bias", "message"),
    [
        (torch.ones(3), 1.0, None, r"W must be a matrix \(features, latents\); got shape \(3,\)"),
        (torch.ones(3, 2, dtype=torch.int64), 1.0, None, "W must be a floating-point tensor; got torch.int64"),
        (torch.tensor([[1.0], [math.nan]]), 1.0, None, "W must be finite; 1 of its elements"),
        (torch.ones(3, 2), 0.0, None, "scale must be a finite positive number; got 0.0"),
        (torch.ones(3, 2), 1.0, torch.zeros(2), r"bias must have shape \(3,\); got \(2,\)"),
        (torch.ones(3, 2), 1.0, torch.full((3,), math.inf), "bias must be finite; 3 of its elements"),
    ],
)
def test_invalid_parameters_are_refused(W, scale, bias, message) -> None:
    with pytest.raises(OptionError, match=message):
        LinearGaussian(W, scale, bias)
