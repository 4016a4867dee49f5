"""Mixtures: their draws, moments and quantiles, and the modes that they find."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from amortvi.errors import FamilyError, OptionError
from amortvi.families import Diagonal, Mixture, draw, marginals
from amortvi.families.mixture import MixtureDistribution

DOUBLE = torch.float64


def posterior(dim: int = 2):
    torch.manual_seed(0)
    family = Mixture(3, "diagonal").setup(dim, 2).double()
    return family.distribution(torch.randn(4, family.num_parameters, dtype=DOUBLE))


def reference(q) -> MixtureSameFamily:
    components = Independent(Normal(q.components.mean, q.components.variance.sqrt()), 1)
    return MixtureSameFamily(Categorical(logits=q.log_weights), components)


def test_density_and_moments_equal_those_of_torch() -> None:
    q, expected = posterior(), reference(posterior())
    z = torch.randn(7, 4, 2, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.variance, expected.variance)


def test_stratified_draws_count_by_weight() -> None:
    """The shares of the draws of a component add up to its weight, and every component is drawn from."""
    q = posterior()
    drawn = draw(q, 5)
    assert drawn.vector.shape == (15, 4, 2)
    torch.testing.assert_close(drawn.log_share.exp().unflatten(0, (3, 5)).sum(1), q.weights.mT)
    torch.testing.assert_close(drawn.log_share.exp().sum(0), torch.ones(4, dtype=DOUBLE))


def test_quantiles_invert_the_distribution_function() -> None:
    marginal = marginals(posterior())
    for probability in (0.001, 0.3, 0.9):
        quantile = marginal.icdf(torch.tensor(probability, dtype=DOUBLE))
        torch.testing.assert_close(marginal.cdf(quantile), torch.full((4, 2), probability, dtype=DOUBLE))


def test_components_start_apart_with_equal_weights() -> None:
    family = Mixture(2, "diagonal").setup(3, 4)
    q = family(torch.zeros(1, 4))
    torch.testing.assert_close(q.weights, torch.full((1, 2), 0.5))
    apart = (q.components.mean[:, 0] - q.components.mean[:, 1]).abs()
    torch.testing.assert_close(apart, torch.full((1, 3), 2.0))
    family.unlock(0.0)
    together = family(torch.zeros(1, 4)).components.mean
    torch.testing.assert_close(together[:, 0], together[:, 1])


def test_a_mixture_of_mixtures_is_refused() -> None:
    with pytest.raises(FamilyError, match="itself a mixture"):
        Mixture(2, Mixture(2)).setup(2, 3)
    with pytest.raises(OptionError, match="components must be an integer of at least 2; got 1"):
        Mixture(1)


@pytest.mark.parametrize("draw", ["stratified", "independent"])
def test_own_draws_of_narrow_components_keep_their_density(draw: str) -> None:
    """At a location of 100, single precision rounds a draw by more than a scale of 1e-7; its density comes from the noise."""
    loc_and_log_scale = torch.tensor([[[100.0, math.log(1e-7)], [-50.0, math.log(1e-7)]]])
    components = Diagonal(head=False).setup(1, 2).distribution(loc_and_log_scale)
    q = MixtureDistribution(torch.tensor([[0.3, 0.7]]).log(), components)
    torch.manual_seed(0)
    vector = q.from_noise(torch.randn(500, 1, 1)).vector if draw == "stratified" else q.sample((1000,))
    found = q.log_prob(vector)
    # The expectation of log N(z; loc, scale^2) over its own draws is the negative entropy.
    entropy = 0.5 + 0.5 * math.log(2 * math.pi) + math.log(1e-7)
    expected = torch.where(vector[..., 0] > 0, math.log(0.3), math.log(0.7)) - entropy
    assert abs(float((found - expected).mean())) < 5 * 0.5**0.5 / 1000**0.5
