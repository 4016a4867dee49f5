"""Annealed importance sampling, against evidences that are known."""

import math

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

import amortvi as avi
from amortvi import _chunks
from amortvi._util.modes import random_state
from amortvi.diagnostics import reverse_annealed_evidence
from amortvi.errors import AmortviWarning, DataError, OptionError
from tests.any_models import CASES
from tests.exact import linear_gaussian, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(50, seed=1)
EVIDENCE = MODEL.log_evidence(X)

WIDE = linear_gaussian(8, 16, dtype=torch.float32)
"""Eight latents: the best diagonal posterior loses 0.9 nats."""

QUIET = {"progress": False, "seed": 0}


@pytest.fixture(scope="module")
def exact():
    return solved(MODEL)


@pytest.fixture(scope="module")
def diagonal():
    return solved(MODEL, avi.families.Diagonal)


@pytest.fixture(scope="module")
def eight():
    return solved(WIDE, avi.families.Diagonal)


def z_score(estimate: Tensor, truth: float = 0.0) -> float:
    """By how many standard errors the mean of independent estimates is off."""
    return float((estimate.mean() - truth) / (estimate.std() / math.sqrt(estimate.numel())))


def test_from_an_exact_posterior_every_chain_has_the_evidence(exact):
    found = avi.annealed_evidence(exact, X, temperatures=5, chains=3, **QUIET)
    torch.testing.assert_close(found.log_weight, EVIDENCE.expand(3, -1), rtol=0, atol=1e-6)
    assert (found.standard_error < 1e-6).all()
    torch.testing.assert_close(found.ess, torch.full_like(found.ess, 3.0))


@pytest.mark.parametrize(("start", "within"), [("posterior", 0.1), ("prior", 0.3)])
def test_both_directions_bracket_the_exact_evidence(eight, start, within):
    bracket = avi.bracket_evidence(eight, 40, start=start, temperatures=200, leapfrog_steps=2, **QUIET)
    truth = WIDE.log_evidence(bracket.simulated.batch.args[0]).double()
    lower, upper = bracket.lower.log_evidence - truth, bracket.upper.log_evidence - truth
    assert abs(lower.mean()) < within
    assert abs(upper.mean()) < within
    assert z_score(lower) < 4
    assert z_score(upper) > -4
    assert bracket.mean_gap == pytest.approx(float((upper - lower).mean()))
    assert list(bracket.to_frame().columns) == ["lower", "lower_se", "upper", "upper_se", "gap"]


@pytest.mark.slow
def test_every_observation_is_bracketed_to_a_tenth_of_a_nat(eight):
    bracket = avi.bracket_evidence(eight, 25, temperatures=2000, **QUIET)
    truth = WIDE.log_evidence(bracket.simulated.batch.args[0]).double()
    for bound in (bracket.lower, bracket.upper):
        assert ((bound.log_evidence - truth).abs() < 0.1).all()


def test_more_temperatures_narrow_the_bracket(eight):
    gaps = [
        avi.bracket_evidence(eight, 60, start="prior", temperatures=t, leapfrog_steps=2, **QUIET).mean_gap
        for t in (5, 100)
    ]
    assert gaps[0] > 3 * gaps[1] > 0


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("temperatures", [1, 4])
def test_mean_weights_are_unbiased(temperatures, start):
    """With so few temperatures one logarithm would be far off; the mean of the weights is not."""
    vi = solved(MODEL, avi.families.Diagonal, widen=1.5)
    options = {"temperatures": temperatures, "start": start, "leapfrog_steps": 2, **QUIET}
    forwards = avi.annealed_evidence(vi, X[:20], chains=2000, **options)
    assert abs(z_score((forwards.log_weight - EVIDENCE[:20]).exp().mean(1), 1.0)) < 5
    assert abs(z_score((forwards.log_weight - EVIDENCE[:20]).exp(), 1.0)) < 5


def test_mean_weights_are_unbiased_backwards(diagonal):
    simulated = avi.diagnostics.simulate_observations(diagonal, 3000, seed=1)
    truth = MODEL.log_evidence(simulated.batch.args[0])
    options = {"temperatures": 4, "leapfrog_steps": 2, "chains": 2, **QUIET}
    backwards = reverse_annealed_evidence(diagonal, simulated.observations, simulated.values, **options)
    assert backwards.is_upper_bound
    assert abs(z_score((backwards.log_weight + truth).exp().mean(0), 1.0)) < 5


def test_standard_errors_are_those_of_repeated_runs(diagonal):
    x = MODEL.simulate(200, seed=5)
    runs = [
        avi.annealed_evidence(diagonal, x, temperatures=10, chains=64, leapfrog_steps=1, seed=seed, progress=False)
        for seed in range(5)
    ]
    spread = torch.stack([run.log_evidence for run in runs]).var(0).mean().sqrt()
    stated = torch.stack([run.standard_error for run in runs]).square().mean().sqrt()
    # A standard deviation from 5 runs of 200 observations is known to about 1 / sqrt(2 * 4 * 200).
    assert float(stated / spread) == pytest.approx(1, abs=5 / math.sqrt(2 * 4 * 200))


def test_step_sizes_lead_to_the_acceptance_that_is_aimed_at(eight):
    found = avi.annealed_evidence(eight, WIDE.simulate(10, seed=2), temperatures=100, start="prior", **QUIET)
    assert ((found.acceptance - 0.65).abs() < 0.06).all(), found.acceptance


# ---------------------------------------------------------------------------------------------------- models of other kinds


def counts(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_a_constrained_latent(start):
    """Gamma and Poisson: the evidence is a negative binomial's, and the posterior Gamma(4 + x, 3)."""
    x = torch.tensor([0.0, 1.0, 2.0, 7.0])
    vi = with_parameters(counts, torch.tensor([0.0, -0.5]), x, avi.families.Diagonal)
    truth = dist.NegativeBinomial(4.0, probs=torch.tensor(1 / 3)).log_prob(x)
    options = {"temperatures": 60, "chains": 64, "start": start, "leapfrog_steps": 3, **QUIET}
    found = avi.annealed_evidence(vi, x, **options)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-4).all()
    assert (found.standard_error < 0.15).all()
    generator = dist.Gamma(4.0 + x, 3.0)
    with random_state(3):
        rate = generator.sample()
    upper = reverse_annealed_evidence(vi, x, {"rate": rate}, **options)
    assert ((upper.log_evidence - truth).abs() < 0.3).all()


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_scales_of_the_users_own_count_in_the_joint_density_only(start):
    """The latents are drawn from N(0, 1), whatever power the prior is raised to."""

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
    found = avi.annealed_evidence(vi, x, temperatures=60, chains=64, start=start, leapfrog_steps=3, **QUIET)
    assert ((found.log_evidence - truth).abs() < 5 * found.standard_error + 1e-4).all()
    assert (found.standard_error < 0.15).all()


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
    "normalisation and dropout",
    "convolutions",
)
MANY_LATENTS = ("one latent on another", "a plate on the left", "plates on both sides")


class Wide(avi.families.Diagonal):
    """Wider than the posterior, as a proposal has to be."""

    def initial_scale(self) -> Tensor:
        return torch.full_like(super().initial_scale(), 0.2)


def fitted(name, family="diagonal"):
    """An estimator of one of the models people write, hardly trained, and its data."""
    case = CASES[name]
    with random_state(0):
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), family)
    return vi.fit(case.x, epochs=1, progress=False, seed=0), case.x


@pytest.mark.parametrize("name", [*FEW_LATENTS, *MANY_LATENTS])
def test_both_starts_agree_for_any_model(name):
    """From a wide posterior and from the prior: two ways to one integral, mostly without moves."""
    vi, x = fitted(name, Wide)
    # In many dimensions neither is wide enough and near enough, and both have to move.
    options = {"leapfrog_steps": 2, **QUIET}
    options |= {"temperatures": 60, "chains": 100} if name in MANY_LATENTS else {"temperatures": 1, "chains": 4000}
    one, other = (avi.annealed_evidence(vi, x, start=start, **options) for start in ("posterior", "prior"))
    reliable = (one.ess > 15) & (other.ess > 15)
    assert reliable.any()
    error = (one.log_evidence - other.log_evidence) / torch.hypot(one.standard_error, other.standard_error)
    assert (error[reliable].abs() < 5).all()


@pytest.mark.parametrize(
    "name", ["many supports", "plates on both sides", "subsampled in parts", "keywords", "convolutions"]
)
def test_chains_move_in_any_model(name):
    vi, x = fitted(name)
    for start in ("posterior", "prior"):
        found = avi.annealed_evidence(vi, x, temperatures=12, chains=2, start=start, leapfrog_steps=2, **QUIET)
        assert torch.isfinite(found.log_evidence).all()
        assert 0.4 < found.acceptance.mean() < 0.9


# ------------------------------------------------------------------------------------------------------------- the interface


def test_a_refined_posterior_is_a_start_like_any_other():
    """Chains that start from a posterior that is exact again all have the evidence."""
    vi = solved(MODEL, widen=2.0)
    found = avi.annealed_evidence(vi, vi.refine(X[:5]), temperatures=3, chains=2, **QUIET)
    torch.testing.assert_close(found.log_weight, EVIDENCE[:5].expand(2, -1), rtol=0, atol=0.05)


def test_a_seed_reproduces_and_leaves_the_random_state(diagonal):
    options = {"temperatures": 5, "chains": 2, "leapfrog_steps": 1, "progress": False}
    state = torch.get_rng_state()
    first, again, other = (avi.annealed_evidence(diagonal, X[:5], seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.log_weight, again.log_weight)
    assert not torch.equal(first.log_weight, other.log_weight)


def test_chunks_are_put_together_in_order(exact, diagonal, monkeypatch):
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 16)
    table = pd.DataFrame(X[:9].numpy(), index=[f"row {i}" for i in range(9)])
    found = avi.annealed_evidence(exact, table, temperatures=2, chains=7, leapfrog_steps=1, **QUIET)
    torch.testing.assert_close(found.log_weight, EVIDENCE[:9].expand(7, -1), rtol=0, atol=1e-6)
    assert list(found.to_frame().index) == list(table.index)
    assert list(found.to_frame().columns) == ["log_evidence", "standard_error", "ess", "acceptance"]
    simulated = avi.diagnostics.simulate_observations(exact, 9, seed=1)
    options = {"temperatures": 2, "chains": 3, "leapfrog_steps": 1, **QUIET}
    upper = reverse_annealed_evidence(exact, simulated.observations, simulated.values, **options)
    truth = MODEL.log_evidence(simulated.batch.args[0])
    torch.testing.assert_close(upper.log_evidence, truth, rtol=0, atol=1e-6)


def test_one_observation_and_the_words_for_it(diagonal):
    found = avi.annealed_evidence(diagonal, X[:1], temperatures=2, chains=2, **QUIET)
    assert found.log_evidence.shape == (1,)
    assert repr(found).startswith(
        "AnnealedEvidence(1 observation, 2 chains, 2 temperatures from the posterior: mean log"
    )
    bracket = avi.bracket_evidence(diagonal, 5, temperatures=2, chains=2, **QUIET)
    assert "<= mean log p(x) <=" in str(bracket)


def test_nothing_is_left_behind(diagonal):
    modes = [module.training for module in diagonal.generative.modules()]
    store = dict(pyro.get_param_store())
    avi.annealed_evidence(diagonal, X[:2], temperatures=2, chains=2, **QUIET)
    assert [module.training for module in diagonal.generative.modules()] == modes
    assert dict(pyro.get_param_store()) == store
    assert all(parameter.grad is None for parameter in diagonal.generative.parameters())


def test_an_evidence_that_is_not_finite_is_said():
    def broken(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("penalty", torch.where(x > 5, math.nan, 0.0))

    x = torch.tensor([0.0, 1.0])
    vi = with_parameters(broken, torch.tensor([0.0, 0.0]), x, avi.families.Diagonal)
    x[1] = 6.0
    with pytest.warns(AmortviWarning, match="evidence of 1 of 2 observations is not finite"):
        found = avi.annealed_evidence(vi, x, temperatures=3, chains=2, **QUIET)
    assert torch.isfinite(found.log_evidence).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 1}, "chains must be at least 2"),
        ({"temperatures": 0}, "temperatures must be a positive integer"),
        ({"leapfrog_steps": 1.5}, "leapfrog_steps must be a positive integer"),
        ({"start": "guide"}, "start must be one of 'posterior', 'prior'; got 'guide'"),
    ],
)
def test_options_out_of_range(diagonal, options, message):
    with pytest.raises(OptionError, match=message):
        avi.annealed_evidence(diagonal, X, **options)


def test_latents_that_do_not_fit(diagonal):
    with pytest.raises(DataError, match="latents must hold one draw of each of the 5 observations"):
        reverse_annealed_evidence(diagonal, X[:5], {"z": torch.zeros(4, 3, dtype=torch.float64)})
