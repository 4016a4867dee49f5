"""The ELBO of each observation as a function of its parameters, on noise that is held fixed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amortvi.data import Batch
from amortvi.families import FullCovariance, ParametricFamily
from amortvi.model import Model
from amortvi.posterior.refinement.bound import Noise, ObservationELBO, matched_noise
from tests.exact import linear_gaussian, solved
from tests.posterior.problem import Laplaces
from tests.properties import PROPERTY

DOUBLE = torch.float64
PROGRAM = linear_gaussian()
X = PROGRAM.simulate(6, seed=0)


FAMILIES = {"full": FullCovariance, "Laplace": Laplaces}


def elbo_of(family: type[ParametricFamily]) -> tuple[ObservationELBO, torch.Tensor]:
    made = family().setup(3, 1).without_head()
    generator = torch.Generator().manual_seed(0)
    parameters = 0.3 * torch.randn(6, made.num_parameters, generator=generator, dtype=DOUBLE)
    model = Model(PROGRAM).setup(Batch((X,)), 6)
    return ObservationELBO(model, made, Batch((X,)), parameters, torch.arange(6)), parameters


def noise(draws: int, seed: int = 0) -> Noise:
    return Noise.sample(draws, 3, torch.Generator().manual_seed(seed))


@PROPERTY
@given(draws=st.integers(2, 40), dim=st.integers(1, 8))
def test_noise_is_antithetic_and_white(draws: int, dim: int) -> None:
    found = matched_noise(draws, dim, torch.Generator().manual_seed(0))
    count = draws + draws % 2
    assert found.shape == (count, dim)
    torch.testing.assert_close(found[: count // 2], -found[count // 2 :])
    if count // 2 >= dim:
        torch.testing.assert_close(found.mT @ found / count, torch.eye(dim, dtype=DOUBLE))


def test_the_elbo_of_a_gaussian_posterior_is_exact() -> None:
    """On white noise, it equals the evidence minus the KL to the exact posterior, with few draws."""
    elbo, parameters = elbo_of(FullCovariance)
    q = elbo.family.distribution(parameters)
    exact = PROGRAM.posterior(X)
    gaussian = torch.distributions.MultivariateNormal(q.mean, q.covariance_matrix)
    kl = torch.distributions.kl_divergence(gaussian, exact)
    for draws in (6, 20):
        torch.testing.assert_close(elbo(parameters, noise(draws)), PROGRAM.log_evidence(X) - kl)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_gradients_are_those_of_finite_differences(family: type[ParametricFamily]) -> None:
    elbo, parameters = elbo_of(family)
    value, gradient = elbo.with_gradient(parameters, noise(8))
    torch.testing.assert_close(value, elbo(parameters, noise(8)))
    step = 1e-5
    for column in range(parameters.shape[1]):
        shift = torch.zeros_like(parameters)
        shift[:, column] = step
        difference = (elbo(parameters + shift, noise(8)) - elbo(parameters - shift, noise(8))) / (2 * step)
        torch.testing.assert_close(gradient[:, column], difference, rtol=1e-5, atol=1e-5)


def test_path_gradients_vanish_at_the_exact_posterior() -> None:
    """They have no noise there, unlike gradients that include the score of the draws."""
    vi = solved(PROGRAM)
    parameters = vi.encoder(X).detach()
    elbo = ObservationELBO(vi.generative, vi.guide.family, Batch((X,)), parameters, torch.arange(6))
    standard = torch.randn(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    gradient = elbo.path_gradient(parameters, Noise(standard, 0))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    assert elbo.with_gradient(parameters, Noise(standard, 0))[1].abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_the_noise_of_an_observation_does_not_depend_on_the_others(family: type[ParametricFamily]) -> None:
    elbo, parameters = elbo_of(family)
    whole = elbo(parameters, noise(8))
    for rows in ([0], [4, 2], [5, 1, 3]):
        chosen = torch.tensor(rows)
        torch.testing.assert_close(elbo.select(chosen)(parameters[chosen], noise(8)), whole[chosen])
