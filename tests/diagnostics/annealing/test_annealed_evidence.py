"""Annealed importance sampling, compared with exact evidences; forward chains, and backward ones from exact draws."""

import math

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

import amortvi as avi
from amortvi._util import chunks
from amortvi._util.random import random_state
from amortvi.diagnostics.annealing import annealed_evidence
from amortvi.diagnostics.simulation.simulate import simulate_observations
from amortvi.errors import AmortviWarning, DataError, OptionError
from tests.any_models import CASES
from tests.any_models.estimators import make_vi
from tests.exact import linear_gaussian, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(50, seed=1)
EVIDENCE = MODEL.log_evidence(X)
QUIET = {"progress": False, "seed": 0}


@pytest.fixture(scope="module")
def exact() -> avi.AmortizedVI:
    return solved(MODEL)


@pytest.fixture(scope="module")
def diagonal() -> avi.AmortizedVI:
    return solved(MODEL, avi.families.Diagonal)


def z_score(estimates: Tensor, truth: float) -> float:
    """Return the deviation of the mean of independent estimates from the truth, in standard errors."""
    return float((estimates.mean() - truth) / (estimates.std() / math.sqrt(estimates.numel())))


def test_every_chain_from_an_exact_posterior_has_the_evidence(exact: avi.AmortizedVI) -> None:
    found = annealed_evidence(exact, X, temperatures=5, chains=3, leapfrog_steps=1, **QUIET)
    torch.testing.assert_close(found.log_weight, EVIDENCE.expand(3, -1), rtol=0, atol=1e-6)
    assert (found.standard_error < 1e-6).all()
    torch.testing.assert_close(found.ess, torch.full_like(found.ess, 3.0))


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("temperatures", [1, 4])
def test_mean_weights_are_unbiased(temperatures: int, start: str) -> None:
    """The logarithm of a single weight would be far off at so few temperatures; noisy data keep the weights bounded."""
    model = avi.models.LinearGaussian(MODEL.W, scale=3.0)
    x = model.simulate(20, seed=1)
    vi = solved(model, avi.families.Diagonal, widen=1.5)
    found = annealed_evidence(vi, x, chains=2000, temperatures=temperatures, start=start, leapfrog_steps=2, **QUIET)
    weights = (found.log_weight - model.log_evidence(x)).exp()
    assert abs(z_score(weights, 1.0)) < 5
    assert weights.std() < 5


def test_mean_weights_are_unbiased_backward(diagonal: avi.AmortizedVI) -> None:
    simulated = simulate_observations(diagonal, 3000, seed=1)
    found = annealed_evidence(
        diagonal,
        simulated.observations,
        exact_draws=simulated.values,
        temperatures=4,
        leapfrog_steps=2,
        chains=2,
        **QUIET,
    )
    assert found.is_upper_bound
    truth = MODEL.log_evidence(simulated.batch.args[0])
    assert abs(z_score((found.log_weight + truth).exp().mean(0), 1.0)) < 5


def test_standard_errors_are_those_of_repeated_runs(diagonal: avi.AmortizedVI) -> None:
    x, options = MODEL.simulate(200, seed=5), {"temperatures": 10, "chains": 64, "leapfrog_steps": 1}
    runs = [annealed_evidence(diagonal, x, seed=seed, progress=False, **options) for seed in range(5)]
    spread = torch.stack([run.log_evidence for run in runs]).var(0).mean().sqrt()
    stated = torch.stack([run.standard_error for run in runs]).square().mean().sqrt()
    # A standard deviation from 5 runs of 200 observations has a relative error of about 1 / sqrt(2 * 4 * 200).
    assert float(stated / spread) == pytest.approx(1, abs=5 / math.sqrt(2 * 4 * 200) + 0.02)


def test_step_sizes_are_tuned_to_the_target_acceptance() -> None:
    model = linear_gaussian(8, 16, dtype=torch.float32)
    vi = solved(model, avi.families.Diagonal)
    found = annealed_evidence(vi, model.simulate(10, seed=2), temperatures=50, start="prior", **QUIET)
    assert ((found.acceptance - 0.65).abs() < 0.1).all(), found.acceptance


# ------------------------------------------------------------------------------------------------------------ other models


def counts(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_constrained_latents(start: str) -> None:
    """A Gamma prior of a Poisson rate has a negative binomial evidence and the posterior Gamma(4 + x, 3)."""
    x = torch.tensor([0.0, 1.0, 2.0, 7.0])
    vi = with_parameters(counts, torch.tensor([0.0, -0.5]), x, avi.families.Diagonal)
    truth = dist.NegativeBinomial(4.0, probs=torch.tensor(1 / 3)).log_prob(x)
    options = {"temperatures": 60, "chains": 64, "start": start, "leapfrog_steps": 3, **QUIET}
    found = annealed_evidence(vi, x, **options)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-3).all()
    assert (found.standard_error < 0.4).all()
    with random_state(3):
        rate = dist.Gamma(4.0 + x, 3.0).sample()
    upper = annealed_evidence(vi, x, exact_draws={"rate": rate}, **options)
    assert ((upper.log_evidence - truth).abs() < 0.5).all()


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_scales_around_latents_affect_the_joint_density_only(start: str) -> None:
    """The latents are drawn from N(0, 1), whatever factor multiplies their log-probability."""

    def scaled(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            with poutine.scale(scale=0.3):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.scale(scale=2.0):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([0.5, 2.0])
    z = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    density = 0.3 * dist.Normal(0.0, 1.0).log_prob(z) + 2 * dist.Normal(z, 1.0).log_prob(x.double().unsqueeze(-1))
    truth = torch.logsumexp(density, dim=-1) + math.log(float(z[1] - z[0]))
    vi = with_parameters(scaled, torch.tensor([0.5, -0.3]), x, avi.families.Diagonal)
    found = annealed_evidence(vi, x, temperatures=60, chains=64, start=start, leapfrog_steps=3, **QUIET)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-3).all()
    assert (found.standard_error < 0.4).all()


FEW_LATENTS = (
    "parameters of a function",
    "a learned prior",
    "many supports",
    "a chain",
    "a subsampled plate",
    "subsampled in parts",
    "a mask",
    "scales",
    "weights",
    "a factor alone",
    "keywords",
    "convolutions",
)
MANY_LATENTS = ("one latent on another", "plates on both sides")


class Wide(avi.families.Diagonal):
    """Starts wider than the exact posterior, so that the weights of its draws are bounded."""

    def initial_parameters(self) -> Tensor:
        return torch.cat([torch.zeros(self.dim), torch.full((self.dim,), 0.2)])


@pytest.mark.parametrize("name", [*FEW_LATENTS, *MANY_LATENTS])
def test_both_starts_agree_for_any_model(name: str) -> None:
    """A wide posterior and the prior are two proposals for the same integral."""
    case = CASES[name]
    vi = make_vi(case, Wide).setup(case.x, seed=0)
    # With many latents neither is close enough to the exact posterior, so both need moves.
    options = {"temperatures": 40, "chains": 100} if name in MANY_LATENTS else {"temperatures": 1, "chains": 4000}
    one, other = (
        annealed_evidence(vi, case.x, start=start, leapfrog_steps=2, **options, **QUIET)
        for start in ("posterior", "prior")
    )
    known = (one.ess > 15) & (other.ess > 15)
    assert known.any()
    error = (one.log_evidence - other.log_evidence) / torch.hypot(one.standard_error, other.standard_error)
    assert (error[known].abs() < 6).all()


@pytest.mark.parametrize("name", ["many supports", "plates on both sides", "convolutions"])
def test_chains_move_in_any_model(name: str) -> None:
    case = CASES[name]
    vi = make_vi(case).setup(case.x, seed=0)
    for start in ("posterior", "prior"):
        found = annealed_evidence(vi, case.x, temperatures=6, chains=4, start=start, leapfrog_steps=1, **QUIET)
        assert torch.isfinite(found.log_evidence).all()
        assert 0.3 < found.acceptance.mean() < 0.95


def test_flows_can_be_the_start() -> None:
    """An untrained flow is a poor start, from which chains still reach the evidence."""
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(10, seed=0)
    torch.manual_seed(0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [4]), "flow").setup(x, seed=0)
    found = annealed_evidence(vi, x, temperatures=20, chains=16, leapfrog_steps=2, **QUIET)
    assert float((found.log_evidence - model.log_evidence(x)).mean().abs()) < 1


# ----------------------------------------------------------------------------------------------------------- the interface


def test_refined_posteriors_can_be_the_start() -> None:
    """Chains that start from a posterior that refinement has made exact all have the evidence."""
    vi = solved(MODEL, widen=2.0)
    found = annealed_evidence(vi, posterior=vi.refine(X[:5]), temperatures=3, chains=2, **QUIET)
    torch.testing.assert_close(found.log_weight, EVIDENCE[:5].expand(2, -1), rtol=0, atol=0.05)


def test_posteriors_of_other_estimators_or_data_are_refused(exact: avi.AmortizedVI, diagonal: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="posterior belongs to another"):
        annealed_evidence(exact, posterior=diagonal.posterior(X), **QUIET)
    with pytest.raises(DataError, match="posterior is not of the observations"):
        annealed_evidence(exact, X[:5], posterior=exact.posterior(X[5:10]), **QUIET)
    with pytest.raises(DataError, match="Posterior"):
        annealed_evidence(exact, exact.posterior(X), **QUIET)


def test_a_seed_reproduces_and_leaves_the_random_state(diagonal: avi.AmortizedVI) -> None:
    options = {"temperatures": 5, "chains": 2, "leapfrog_steps": 1, "progress": False}
    state = torch.get_rng_state()
    first, again, other = (annealed_evidence(diagonal, X[:5], seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.log_weight, again.log_weight)
    assert not torch.equal(first.log_weight, other.log_weight)


@pytest.mark.parametrize("numbers", [16, 512])
def test_chunks_are_joined_in_order(exact: avi.AmortizedVI, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", numbers)
    options = {"temperatures": 2, "chains": 7, "leapfrog_steps": 1, **QUIET}
    table = pd.DataFrame(X[:3].numpy(), index=["a", "b", "c"])
    found = annealed_evidence(exact, table, **options)
    torch.testing.assert_close(found.log_weight, EVIDENCE[:3].expand(7, -1), rtol=0, atol=1e-6)
    assert list(found.to_frame().index) == list(table.index)
    assert list(found.to_frame().columns) == ["log_evidence", "standard_error", "ess", "acceptance"]
    # With one temperature, a backward chain has the weight of the very draw that it starts from.
    vi = solved(MODEL, widen=1.5)
    simulated = simulate_observations(vi, 9, seed=1)
    options |= {"temperatures": 1, "exact_draws": simulated.values}
    found = annealed_evidence(vi, simulated.observations, **options)
    log_q = vi.posterior(simulated.observations).log_prob(simulated.values)
    log_joint = vi.generative.log_joint(simulated.batch, simulated.vector.unsqueeze(0))
    torch.testing.assert_close(found.log_weight, (log_q - log_joint).double().expand(7, -1))


def test_progress_and_text(diagonal: avi.AmortizedVI, capsys: pytest.CaptureFixture[str]) -> None:
    found = annealed_evidence(diagonal, X[:1], temperatures=2, chains=2, seed=0)
    assert "annealing: 100%" in capsys.readouterr().err
    assert found.log_evidence.shape == (1,)
    assert repr(found).startswith(
        "AnnealedEvidence(1 observation, 2 chains, 2 temperatures from the posterior: mean log"
    )


def test_the_estimator_is_left_unchanged(diagonal: avi.AmortizedVI) -> None:
    modes = [module.training for module in diagonal.generative.modules()]
    store = dict(pyro.get_param_store())
    annealed_evidence(diagonal, X[:2], temperatures=2, chains=2, **QUIET)
    assert [module.training for module in diagonal.generative.modules()] == modes
    assert dict(pyro.get_param_store()) == store
    assert all(parameter.grad is None for parameter in diagonal.generative.parameters())


def test_a_nonfinite_evidence_is_reported() -> None:
    def broken(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("penalty", torch.where(x > 5, math.nan, 0.0))

    vi = with_parameters(broken, torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]), avi.families.Diagonal)
    with pytest.warns(AmortviWarning, match="evidence of 1 of 2 observations is not finite"):
        found = annealed_evidence(vi, torch.tensor([0.0, 6.0]), temperatures=3, chains=2, **QUIET)
    assert torch.isfinite(found.log_evidence).tolist() == [True, False]


@pytest.mark.parametrize(
    ("option", "value"), [("chains", 1), ("temperatures", 0), ("leapfrog_steps", 1.5), ("start", "guide")]
)
def test_options_out_of_range(diagonal: avi.AmortizedVI, option: str, value: object) -> None:
    with pytest.raises(OptionError, match=option):
        annealed_evidence(diagonal, X, **{option: value})


@pytest.mark.parametrize(
    "draws", [torch.zeros(4, 3), {"w": torch.zeros(5, 3)}, {"z": torch.zeros(4, 3)}, {"z": torch.zeros(2, 5, 3)}]
)
def test_exact_draws_that_do_not_match(diagonal: avi.AmortizedVI, draws: object) -> None:
    with pytest.raises(DataError, match="exact_draws"):
        annealed_evidence(diagonal, X[:5], exact_draws=draws)
