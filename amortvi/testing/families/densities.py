"""Checks of densities and closed forms against draws."""

from __future__ import annotations

import torch
from torch.distributions import Normal, StudentT

from amortvi.families import FamilyChoice, closed_forms
from amortvi.testing.families.common import DRAWS, assert_mean, posterior

__all__ = ["check_expand", "check_kl_and_entropy", "check_marginals", "check_moments", "check_normalization"]


def check_normalization(choice: FamilyChoice) -> None:
    """The density integrates to one, by importance sampling from a wider Student t distribution."""
    q = posterior(choice, 2)
    drawn = q.sample(torch.Size([20_000]))
    deviation = drawn - drawn.mean(0)
    factor = torch.linalg.cholesky(2.0 * torch.einsum("sbi,sbj->bij", deviation, deviation) / drawn.shape[0])
    student = StudentT(torch.full((3, 2), 5.0, dtype=torch.float64))
    noise = student.sample(torch.Size([DRAWS]))
    z = drawn.mean(0) + torch.einsum("bij,sbj->sbi", factor, noise)
    log_proposal = student.log_prob(noise).sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    ratio = (q.log_prob(z) - log_proposal).exp()
    assert_mean(ratio, torch.ones(3, dtype=torch.float64), "the integral of the density")


def check_moments(choice: FamilyChoice) -> None:
    """Mean, variance and covariance, if they are known, agree with draws."""
    q = posterior(choice, 3)
    z = q.sample(torch.Size([DRAWS]))
    deviation = z - z.mean(0)
    known, covariance = closed_forms.moments(q), closed_forms.covariance(q)
    if known is not None:
        assert_mean(z, known[0], "the mean")
        assert_mean(deviation.square(), known[1], "the variance")
    if covariance is not None:
        assert_mean(deviation.unsqueeze(-1) * deviation.unsqueeze(-2), covariance, "the covariance")


def check_marginals(choice: FamilyChoice) -> None:
    """The marginals, if they are known, have the right shape, and their quantiles agree with draws."""
    q = posterior(choice, 3)
    marginal = closed_forms.marginals(q)
    if marginal is None:
        return
    shapes = marginal.batch_shape, marginal.event_shape
    assert shapes == ((3, 3), ()), f"batch and event shape of the marginals are {shapes}, expected (*B, D) and ()"
    z = q.sample(torch.Size([DRAWS]))
    for probability in (0.05, 0.5, 0.9):
        expected = torch.full_like(z[0], probability)
        try:
            below = z < marginal.icdf(expected)
        except NotImplementedError:  # quantiles are optional
            below = marginal.cdf(z) < probability
        assert_mean(below.double(), expected, f"the probability below the {probability} quantile")


def check_kl_and_entropy(choice: FamilyChoice) -> None:
    """KL to ``N(0, I)`` and entropy, if they are known, equal the means of ``log q - log p`` and of ``-log q``."""
    q = posterior(choice, 3)
    z = q.sample(torch.Size([DRAWS]))
    log_q, kl = q.log_prob(z), closed_forms.kl_to_standard_normal(q)
    if kl is not None:
        assert_mean(log_q - Normal(0.0, 1.0).log_prob(z).sum(-1), kl, "kl_to_standard_normal")
    try:
        entropy = q.entropy()
    except NotImplementedError:  # optional
        return
    assert_mean(-log_q, entropy, "the entropy")


def check_expand(choice: FamilyChoice) -> None:
    """Expanded to surrounding plates, as in Pyro, a distribution keeps its density and draws independent noise."""
    q = posterior(choice, 4)
    wide = q.expand(torch.Size([5, 3]))
    z = wide.sample()
    assert (wide.batch_shape, z.shape) == ((5, 3), (5, 3, 4)), f"batch shape {wide.batch_shape}, sample shape {z.shape}"
    assert torch.allclose(wide.log_prob(z), q.log_prob(z)), "expanding changes the density"
    assert not torch.equal(z[0], z[1]), "expanded copies share their noise"
