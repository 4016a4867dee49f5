"""Defensive mixtures: a density that is one, draws that are from it, and weights that stay bounded."""

import math

import torch
from torch.distributions import MultivariateNormal, StudentT

import amortvi as avi
from amortvi.diagnostics import DefensiveMixture, defensive
from amortvi.families import FullCovariance
from amortvi.importance import pareto_smoothed
from tests.exact import linear_gaussian, solved


def mixture(dim: int) -> DefensiveMixture:
    family = FullCovariance(dim, 1).double()
    generator = torch.Generator().manual_seed(0)
    parameters = 0.5 * torch.randn(family.num_parameters, generator=generator, dtype=torch.float64)
    return DefensiveMixture(family.distribution(parameters))


def test_the_density_in_one_dimension_is_that_of_the_two_parts() -> None:
    found = mixture(1)
    value = torch.linspace(-5, 5, 101, dtype=torch.float64).unsqueeze(-1)
    loc, scale = found.gaussian.mean[0], found.gaussian.variance.sqrt()[0]
    standard = (value.squeeze(-1) - loc) / scale
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(standard).exp()
    student = StudentT(3.0).log_prob(standard).exp()
    torch.testing.assert_close(found.log_prob(value).exp(), (0.5 * normal + 0.5 * student) / scale)


def test_draws_are_from_the_density() -> None:
    """By importance: the mean of p / q over draws from q is one, and its first two moments are those of p."""
    torch.manual_seed(0)
    found = mixture(3)
    target = MultivariateNormal(found.gaussian.mean, found.gaussian.covariance_matrix)
    draws = found.rsample(torch.Size([100_000]))
    weights = (target.log_prob(draws) - found.log_prob(draws)).exp()
    assert float(weights.max()) <= 2 + 1e-9
    error = float(weights.std()) / math.sqrt(len(weights))
    assert abs(float(weights.mean()) - 1) < 5 * error
    centred = draws - found.gaussian.mean
    second = (weights[:, None, None] * centred.unsqueeze(-1) * centred.unsqueeze(-2)).mean(0)
    # The standard error of a second moment is at most about sqrt(3 / n) of the product of the deviations.
    torch.testing.assert_close(second, found.gaussian.covariance_matrix, rtol=0.03, atol=0.03)


def test_weights_of_a_heavier_tail_become_bounded() -> None:
    """A Student target: for a Gaussian proposal its weights have no variance, for the mixture they are at most 2."""
    torch.manual_seed(0)
    gaussian = FullCovariance(1, 1).double().distribution(torch.zeros(2, dtype=torch.float64))
    heavy = StudentT(torch.tensor(3.0, dtype=torch.float64))
    plain, guarded = gaussian.rsample(torch.Size([4000])), DefensiveMixture(gaussian).rsample(torch.Size([4000]))
    of_plain = heavy.log_prob(plain[:, 0]) - gaussian.log_prob(plain)
    of_guarded = heavy.log_prob(guarded[:, 0]) - DefensiveMixture(gaussian).log_prob(guarded)
    assert float(of_guarded.max()) <= math.log(2) + 1e-9
    k_hat = pareto_smoothed(torch.stack([of_plain, of_guarded], dim=1)).k_hat
    assert float(k_hat[1]) < 0.5 < float(k_hat[0])


def test_the_evidence_stays_exact() -> None:
    model = linear_gaussian(4, 6)
    x = model.simulate(30, seed=1)
    vi = solved(model)
    found = avi.evidence(vi, defensive(vi.posterior(x)), draws=2000, seed=0)
    assert bool(found.reliable.all())
    offset = (found.log_evidence - model.log_evidence(x)) / found.standard_error
    assert float(offset.abs().max()) < 5
    # Where the Gaussian is exact, the draws of the mixture are worth nearly as much.
    assert float((found.effective_sample_size / 2000).min()) > 0.8
