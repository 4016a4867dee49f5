"""Log weights: their terms, their closed forms, and their independence of the batch."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.distributions import Distribution, Independent, Laplace, Normal, TransformedDistribution

from amortvi.data import Batch
from amortvi.errors import OptionError
from amortvi.families import FullCovariance, draw, kl_to_standard_normal
from amortvi.model import Model
from amortvi.posterior import LogWeights, log_weights
from tests.exact import linear_gaussian

DOUBLE = torch.float64
PROGRAM = linear_gaussian()
X = PROGRAM.simulate(6, seed=0)
BATCH = Batch((X,))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(PROGRAM).setup(BATCH, 6)


def posterior() -> Distribution:
    torch.manual_seed(0)
    family = FullCovariance().setup(3, 1)
    return family.distribution(0.3 * torch.randn(6, family.num_parameters, dtype=DOUBLE))


def weights(model: Model, q: Distribution, batch: Batch, draws: int, **options: Any) -> LogWeights:
    return log_weights(model, q, batch, draw(q, draws), **options)


def test_weights_of_a_linear_gaussian_model(model: Model) -> None:
    q = posterior()
    found = weights(model, q, BATCH, 4)
    z = found.drawn.vector
    assert z.shape == (4, 6, 3)
    log_joint = PROGRAM.posterior(X).log_prob(z) + PROGRAM.log_evidence(X)
    torch.testing.assert_close(found.log_likelihood + found.log_priors["z"], log_joint)
    torch.testing.assert_close(found.log_posterior, q.log_prob(z))
    torch.testing.assert_close(found.log_weight, found.log_likelihood - found.log_ratio)
    torch.testing.assert_close(found.reconstruction, found.log_likelihood.mean(0))
    torch.testing.assert_close(found.kl, found.log_ratio.mean(0))
    assert found.global_log_prob == 0


@pytest.mark.parametrize("kl", ["auto", "closed_form"])
def test_closed_form_kl_replaces_the_densities(model: Model, kl: str) -> None:
    q = posterior()
    found = weights(model, q, BATCH, 4, kl=kl)
    torch.testing.assert_close(found.kl, kl_to_standard_normal(q))
    assert found.log_posterior is None
    assert not found.log_priors


def test_another_density_can_be_given(model: Model) -> None:
    found = weights(model, posterior(), BATCH, 4, log_density=lambda z: z.sum(-1))
    torch.testing.assert_close(found.log_posterior, found.drawn.vector.sum(-1))


def log_normal(x: torch.Tensor) -> None:
    with pyro.plate("data", 60, subsample=x):
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros((), dtype=DOUBLE), 1.0))
        pyro.sample("x", dist.Normal(rate, 1.0), obs=x)


def test_weights_of_a_transformed_latent_in_a_subsampled_plate() -> None:
    """The posterior has a log-normal density, here that of the prior, and the plate does not scale the likelihood."""
    batch = Batch((torch.linspace(-1, 1, 3, dtype=DOUBLE),))
    model, q = Model(log_normal).setup(batch, 3), Independent(Normal(torch.zeros(3, 1, dtype=DOUBLE), 1.0), 1)
    found = weights(model, q, batch, 5)
    torch.testing.assert_close(found.log_ratio, torch.zeros(5, 3, dtype=DOUBLE), rtol=0, atol=1e-7)
    expected = Normal(found.drawn.vector.squeeze(-1).exp(), 1.0).log_prob(batch.args[0])
    torch.testing.assert_close(found.log_likelihood, expected)
    with pytest.raises(OptionError, match=r"the prior is not a fixed N\(0, I\)"):
        weights(model, q, batch, 2, kl="closed_form")


def test_an_unknown_closed_form_is_refused_on_request(model: Model) -> None:
    q = TransformedDistribution(Independent(Laplace(torch.zeros(6, 3, dtype=DOUBLE), 1.0), 1), [])
    message = "kl='closed_form' is not possible: that of TransformedDistribution is unknown"
    with pytest.raises(OptionError, match=message):
        weights(model, q, BATCH, 2, kl="closed_form")
    assert weights(model, q, BATCH, 2, kl="auto").closed_form_kl is None


def test_terms_are_named(model: Model) -> None:
    found = weights(model, posterior(), BATCH, 2)
    assert set(found.terms()) == {
        "observed site 'x'",
        "latent site 'z' (prior)",
        "the posterior (guide)",
        "the sites outside the plate",
    }
    assert "the KL of the posterior (guide)" in weights(model, posterior(), BATCH, 2, kl="auto").terms()
