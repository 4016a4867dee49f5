"""Defensive mixtures: the density is normalized, draws follow it, and weights are bounded."""

import math

import torch
from torch.distributions import MultivariateNormal, StudentT

import amortvi as avi
from amortvi.diagnostics.evidence import evidence
from amortvi.diagnostics.gaps import DefensiveMixture, defensive
from amortvi.families import Diagonal, FullCovariance
from amortvi.importance import pareto_smoothed
from tests.exact import linear_gaussian, solved


def test_draws_follow_the_density() -> None:
    """The mean importance weight of the Gaussian is one, and the weighted second moments are its covariance."""
    torch.manual_seed(0)
    family = FullCovariance().setup(3, 1)
    found = DefensiveMixture(family.distribution(0.5 * torch.randn(family.num_parameters, dtype=torch.float64)))
    target = MultivariateNormal(found.gaussian.mean, found.gaussian.covariance_matrix)
    draws = found.rsample(torch.Size([100_000]))
    weights = (target.log_prob(draws) - found.log_prob(draws)).exp()
    assert float(weights.max()) <= 2 + 1e-9
    centered = draws - found.gaussian.mean
    moments = weights[:, None, None] * centered.unsqueeze(-1) * centered.unsqueeze(-2)
    for terms, exact in ((weights, torch.tensor(1.0)), (moments, found.gaussian.covariance_matrix)):
        error = terms.std(0) / math.sqrt(len(terms))
        assert ((terms.mean(0) - exact).abs() < 5 * error).all()


def test_weights_of_a_target_with_heavier_tails_are_bounded() -> None:
    """The weights of a Student t target have infinite variance for a Gaussian proposal, and are at most 2 for the mixture."""
    torch.manual_seed(0)
    gaussian = Diagonal().setup(1, 1).distribution(torch.zeros(50, 2, dtype=torch.float64))
    target = StudentT(torch.tensor(3.0, dtype=torch.float64))
    plain, guarded = (q.rsample(torch.Size([4000])) for q in (gaussian, DefensiveMixture(gaussian)))
    plain_weights = target.log_prob(plain[..., 0]) - gaussian.log_prob(plain)
    guarded_weights = target.log_prob(guarded[..., 0]) - DefensiveMixture(gaussian).log_prob(guarded)
    assert float(guarded_weights.max()) <= math.log(2) + 1e-9
    assert float(pareto_smoothed(guarded_weights).k_hat.mean()) < 0.3
    assert float(pareto_smoothed(plain_weights).k_hat.mean()) > 0.5


def test_the_evidence_stays_exact() -> None:
    model = linear_gaussian(4, 6)
    x, vi = model.simulate(30, seed=1), solved(model)
    found = evidence(vi, posterior=defensive(vi.posterior(x)), draws=2000, seed=0)
    assert bool(found.reliable.all())
    assert float(((found.log_evidence - model.log_evidence(x)) / found.standard_error).abs().max()) < 6
    # If the Gaussian is exact, the effective sample size is hardly smaller.
    assert float((found.effective_sample_size / 2000).min()) > 0.8


def test_flows_stay_as_they_are() -> None:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(5, seed=1)
    posterior = avi.AmortizedVI(model, avi.encoders.MLP(3, [4]), "flow").setup(x, seed=0).posterior(x)
    batch = posterior.first()
    assert type(defensive(posterior).network(batch)) is type(posterior.network(batch))
