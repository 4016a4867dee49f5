"""Posteriors of models with discrete latents, against exact posteriors of a mixture of normal distributions."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch
from amortvi.posterior import Posterior
from amortvi.posterior.moments import DRAWS
from tests.arviz_versions import groups
from tests.exact import with_parameters

DOUBLE = torch.float64
WEIGHTS = torch.tensor([0.3, 0.7], dtype=DOUBLE)
MEANS = torch.tensor([-1.0, 1.5], dtype=DOUBLE)
LOC, SCALE = 0.4, 1.4
X = torch.linspace(-3.0, 3.0, 8, dtype=DOUBLE)
LABELS = torch.tensor([0, 1, -1, -1, 1, 0, -1, -1])


def model(x: Tensor) -> None:
    """The class determines the latent and the observation."""
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.Categorical(WEIGHTS))
        z = pyro.sample("z", dist.Normal(MEANS[y], 1.0))
        pyro.deterministic("sign", MEANS[y].sign(), event_dim=0)
        pyro.sample("x", dist.Normal(z + MEANS[y], 0.9), obs=x)


def log_joint(z: Tensor, x: Tensor = X) -> Tensor:
    """Return ``log p(x, z, y)`` for both values of ``y``, ``(K, N, 2)``."""
    z, x = z.unsqueeze(-1), x.unsqueeze(-1)
    return WEIGHTS.log() + dist.Normal(MEANS, 1.0).log_prob(z) + dist.Normal(z + MEANS, 0.9).log_prob(x)


def log_evidence() -> Tensor:
    each = dist.Normal(2 * MEANS, math.sqrt(1 + 0.9**2)).log_prob(X.unsqueeze(-1))
    return (WEIGHTS.log() + each).logsumexp(-1)


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    """The posterior of each observation is ``N(LOC, SCALE ** 2)``."""
    parameters = torch.tensor([LOC, math.log(SCALE)], dtype=DOUBLE)
    return with_parameters(model, parameters, X, avi.families.Diagonal)


@pytest.fixture(scope="module")
def posterior(vi: avi.AmortizedVI) -> Posterior:
    return vi.posterior(X)


def expected_probs() -> Tensor:
    """Return ``E_q[p(y | x, z)]`` by quadrature, ``(N, 2)``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = LOC + SCALE * torch.from_numpy(nodes).unsqueeze(-1).expand(-1, len(X))
    share = torch.from_numpy(weights / weights.sum())
    return torch.einsum("k,kny->ny", share, log_joint(z).softmax(-1))


def test_probabilities(posterior: Posterior) -> None:
    found, expected = posterior.probs["y"], expected_probs()
    torch.testing.assert_close(found.sum(-1), torch.ones(len(X), dtype=DOUBLE))
    # The standard deviation of a probability is at most one half.
    torch.testing.assert_close(found, expected, rtol=0.0, atol=5 * 0.5 / math.sqrt(DRAWS))
    torch.testing.assert_close(posterior.probs["y"], found, rtol=0.0, atol=0.0)
    torch.testing.assert_close(posterior.select([2, 5]).probs["y"].shape, torch.Size([2, 2]))


def test_a_model_without_discrete_latents_has_no_probabilities() -> None:
    def continuous(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)), 1.0), obs=x)

    parameters = torch.zeros(2, dtype=DOUBLE)
    assert with_parameters(continuous, parameters, X, avi.families.Diagonal).posterior(X).probs == {}


def test_deterministic_sites_use_the_posterior_of_the_class(posterior: Posterior) -> None:
    expected = expected_probs() @ torch.tensor([-1.0, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(posterior.mean["sign"], expected, rtol=0.0, atol=5 / math.sqrt(DRAWS))


def test_predictions_use_the_posterior_of_the_class(vi: avi.AmortizedVI) -> None:
    draws = 4000
    found = vi.predict(X, draws, seed=0)["x"]
    expected = LOC + expected_probs() @ MEANS
    # Given the class, the variance is at most SCALE ** 2 + 0.9 ** 2, and that between classes at most (2.5 / 2) ** 2.
    spread = math.sqrt(SCALE**2 + 0.9**2 + 1.25**2)
    assert ((found.mean(0) - expected).abs() < 5 * spread / math.sqrt(draws)).all()


def test_prior_draws(vi: avi.AmortizedVI) -> None:
    draws = 4000
    drawn = vi.sample_prior(draws, seed=0)
    share = float((drawn["y"] == 1).double().mean())
    assert share == pytest.approx(0.7, abs=5 * math.sqrt(0.21 / draws))
    # Given the class, z is distributed as in the prior.
    for value, mean in enumerate(MEANS):
        chosen = drawn["z"][drawn["y"] == value]
        assert float(chosen.mean()) == pytest.approx(float(mean), abs=5 / math.sqrt(len(chosen)))


def test_bounds_bracket_the_evidence(vi: avi.AmortizedVI) -> None:
    found, exact = vi.evaluate(X, particles=20_000, seed=0), log_evidence().numpy()
    assert (found["elbo"].to_numpy() < exact).all()
    np.testing.assert_allclose(found["iwae"], exact, atol=0.1)
    np.testing.assert_allclose(found["elbo"], found["reconstruction"] - found["kl"])


def test_the_annealed_evidence_from_the_prior(vi: avi.AmortizedVI) -> None:
    found = avi.annealed_evidence(vi, X, temperatures=20, chains=16, start="prior", seed=0, progress=False).to_frame()
    error = (found["log_evidence"] - log_evidence().numpy()).abs()
    assert (error < 5 * found["standard_error"] + 0.02).all()


def test_export_to_arviz(vi: avi.AmortizedVI) -> None:
    exported = groups(vi.to_arviz(X, draws=500, seed=0))
    z = torch.from_numpy(exported["posterior"]["z"].to_numpy()[0])
    each = log_joint(z)
    prior = (WEIGHTS.log() + dist.Normal(MEANS, 1.0).log_prob(z.unsqueeze(-1))).logsumexp(-1)
    # ArviZ finds the log-likelihood of an observed variable by its name.
    np.testing.assert_allclose(exported["log_likelihood"]["x"][0], each.logsumexp(-1) - prior, rtol=1e-6)
    np.testing.assert_allclose(exported["sample_stats"]["log_joint"][0], each.logsumexp(-1), rtol=1e-6)
    shares = exported["posterior"]["y"].to_numpy()[0].mean(0)
    np.testing.assert_allclose(shares, each.softmax(-1)[..., 1].mean(0), atol=5 * 0.5 / math.sqrt(500))
    np.testing.assert_allclose(exported["posterior"]["sign"][0], np.sign(MEANS.numpy())[exported["posterior"]["y"][0]])
    assert {"y", "z"} <= set(exported["prior"].data_vars)


def test_a_fit_reaches_the_evidence_of_well_separated_components() -> None:
    """Given the data, one component is certain, so the exact posterior is normal and the bound reaches the evidence."""

    def separated(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(20.0 * y - 10.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([-10.0, 10.0]).repeat(100)
    x = centers + math.sqrt(2) * torch.randn(200, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = _Columns(avi.encoders.MLP(1, [32]))
        vi = avi.AmortizedVI(separated, encoder, "diagonal")
        vi.fit(x, epochs=150, batch_size=50, lr=1e-2, seed=0, progress=False)
    evidence = math.log(0.5) + dist.Normal(centers, math.sqrt(2)).log_prob(x)
    assert float(vi.evaluate(x, particles=500, seed=0)["elbo"].mean()) == pytest.approx(
        float(evidence.mean()), abs=0.03
    )
    assert (vi.posterior(x).probs["y"][:, 1].round() == (centers > 0)).all()


class _Columns(nn.Module):
    """Gives a network its observations as a column; other arguments are ignored."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        context: Tensor = self.network(x.unsqueeze(-1))
        return context


def some_labels(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        label = pyro.sample("y", dist.Categorical(WEIGHTS.float()), obs=y, obs_mask=y >= 0)
        pyro.sample("x", dist.Normal(z + MEANS.float()[label], 1.0), obs=x)


def fit_some_labels(*, compile: bool = False) -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(some_labels, _Columns(avi.encoders.MLP(1, [8])), "diagonal")
        return vi.fit((X.float(), LABELS), epochs=4, batch_size=4, seed=0, progress=False, compile=compile)


def test_simulated_data_keep_the_labels_that_are_missing() -> None:
    vi = fit_some_labels()
    simulated = avi.diagnostics.simulate_observations(vi, 8, (X.float(), LABELS), seed=0)
    labels = simulated.observations.as_batch().args[1]
    assert ((labels == -1) == (LABELS == -1)).all()


@pytest.mark.slow
def test_compiled_steps_are_the_same() -> None:
    histories = [fit_some_labels(compile=compiled).history["elbo"] for compiled in (False, True)]
    np.testing.assert_allclose(*histories, rtol=1e-5)


def test_the_density_of_a_batch(vi: avi.AmortizedVI) -> None:
    z = torch.randn(5, len(X), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = vi.generative.log_joint(Batch((X,)), z.unsqueeze(-1))
    torch.testing.assert_close(found, log_joint(z).logsumexp(-1))
