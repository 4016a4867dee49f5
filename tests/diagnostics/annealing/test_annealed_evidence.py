"""Annealed importance sampling and its bounds from both sides, compared with exact evidences."""

import math
from typing import Any

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

import amortvi as avi
from amortvi._util import memory
from amortvi._util.random import random_state
from amortvi.diagnostics.annealing import annealed_evidence, bracket_evidence
from amortvi.diagnostics.simulation.simulate import simulate_observations
from amortvi.errors import AmortviWarning, DataError, OptionError
from tests.any_models import CASES
from tests.any_models.estimators import make_vi
from tests.exact import gamma_poisson, linear_gaussian, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(50, seed=1)
EVIDENCE = MODEL.log_evidence(X)
EIGHT = linear_gaussian(8, 16, dtype=torch.float32)
"""Eight latents: the best diagonal posterior loses 0.9 nats."""
QUIET = {"progress": False, "seed": 0}


@pytest.fixture(scope="module")
def diagonal() -> avi.AmortizedVI:
    return solved(MODEL, avi.families.Diagonal)


@pytest.fixture(scope="module")
def eight() -> avi.AmortizedVI:
    return solved(EIGHT, avi.families.Diagonal)


def z_score(estimates: Tensor, truth: float) -> float:
    """Return the deviation of the mean of independent estimates from the truth, in standard errors."""
    return float((estimates.mean() - truth) / (estimates.std() / math.sqrt(estimates.numel())))


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
    simulated = simulate_observations(diagonal, 2000, seed=1)
    options = {"temperatures": 4, "leapfrog_steps": 2, "chains": 2, **QUIET}
    found = annealed_evidence(diagonal, simulated.observations, exact_draws=simulated.values, **options)
    assert found.is_upper_bound
    truth = MODEL.log_evidence(simulated.batch.args[0])
    assert abs(z_score((found.log_weight + truth).exp().mean(0), 1.0)) < 5


def test_standard_errors_are_those_of_repeated_runs(diagonal: avi.AmortizedVI) -> None:
    """Copies of one observation have independent chains, so the spread of their estimates is the standard error."""
    copies = 500
    options = {"temperatures": 10, "chains": 64, "leapfrog_steps": 1, **QUIET}
    found = annealed_evidence(diagonal, X[:1].expand(copies, -1), **options)
    stated = found.standard_error.square().mean().sqrt()
    # A standard deviation has a relative error of 1 / sqrt(2 N); the delta method is accurate to 2%.
    assert float(stated / found.log_evidence.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * copies) + 0.02)


def test_step_sizes_are_tuned_to_the_target_acceptance(eight: avi.AmortizedVI) -> None:
    found = annealed_evidence(eight, EIGHT.simulate(10, seed=2), temperatures=30, start="prior", **QUIET)
    assert ((found.acceptance - 0.65).abs() < 0.1).all(), found.acceptance


def scaled(x: Tensor) -> None:
    """The latent is drawn from N(0, 1), whatever factor multiplies its log-probability in the joint density."""
    with pyro.plate("data", x.shape[0]):
        with poutine.scale(scale=0.3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=2.0):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def scaled_evidence(x: Tensor) -> Tensor:
    z = torch.linspace(-15, 15, 20001, dtype=torch.float64)
    density = 0.3 * dist.Normal(0.0, 1.0).log_prob(z) + 2 * dist.Normal(z, 1.0).log_prob(x.double().unsqueeze(-1))
    return torch.logsumexp(density, dim=-1) + math.log(float(z[1] - z[0]))


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize(
    ("model", "evidence", "parameters", "x"),
    [
        (gamma_poisson, dist.NegativeBinomial(4.0, torch.tensor(1 / 3)).log_prob, [0.0, -0.5], [0.0, 1.0, 2.0, 7.0]),
        (scaled, scaled_evidence, [0.5, -0.3], [0.5, 2.0]),
    ],
    ids=["constrained", "scaled"],
)
def test_models_with_a_known_evidence(model, evidence, parameters, x, start: str) -> None:
    x = torch.tensor(x)
    vi = with_parameters(model, torch.tensor(parameters), x, avi.families.Diagonal)
    options = {"temperatures": 40, "chains": 64, "leapfrog_steps": 2, **QUIET}
    found = annealed_evidence(vi, x, start=start, **options)
    assert ((found.log_evidence - evidence(x)).abs() < 5 * found.standard_error + 1e-3).all()
    assert (found.standard_error < 0.4).all()
    if model is gamma_poisson:
        with random_state(3):
            rate = dist.Gamma(4.0 + x, 3.0).sample()
        upper = annealed_evidence(vi, x, exact_draws={"rate": rate}, start=start, **options)
        assert ((upper.log_evidence - evidence(x)).abs() < 0.5).all()


FEW_LATENTS = ["parameters of a function", "a learned prior", "a chain", "a subsampled plate", "subsampled in parts"]
FEW_LATENTS += ["a mask", "scales", "weights", "a factor alone", "keywords"]
MANY_LATENTS = ["one latent on another", "plates on both sides", "many supports", "convolutions"]


class Wide(avi.families.Diagonal):
    """Starts wider than the exact posterior, so that the weights of its draws are bounded."""

    def initial_parameters(self) -> Tensor:
        return torch.cat([torch.zeros(self.dim), torch.full((self.dim,), 0.2)])


@pytest.mark.parametrize("name", [*FEW_LATENTS, *MANY_LATENTS])
def test_both_starts_agree_for_any_model(name: str) -> None:
    """A wide posterior and the prior are two proposals for the same integral."""
    case = CASES[name]
    vi = make_vi(case, Wide).setup(case.x, seed=0)
    # With many latents, neither is close enough to the exact posterior, so both need moves.
    moves = name in MANY_LATENTS
    options = {"temperatures": 40, "chains": 200} if moves else {"temperatures": 1, "chains": 4000}
    one, other = (
        annealed_evidence(vi, case.x, start=start, leapfrog_steps=2, **options, **QUIET)
        for start in ("posterior", "prior")
    )
    known = (one.ess > 30) & (other.ess > 30)  # the standard errors of the others may be far too small
    assert known.any()
    error = (one.log_evidence - other.log_evidence) / torch.hypot(one.standard_error, other.standard_error)
    assert (error[known].abs() < 6).all()
    assert not moves or 0.3 < one.acceptance.mean() < 0.95


def test_flows_can_be_the_start() -> None:
    """An untrained flow is a poor start, from which chains still reach the evidence."""
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(10, seed=0)
    torch.manual_seed(0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [4]), "flow").setup(x, seed=0)
    found = annealed_evidence(vi, x, temperatures=20, chains=16, leapfrog_steps=2, **QUIET)
    assert float((found.log_evidence - model.log_evidence(x)).mean().abs()) < 1


def test_refined_posteriors_can_be_the_start() -> None:
    """Chains that start from a posterior that refinement has made exact all have the evidence."""
    vi = solved(MODEL, widen=2.0)
    found = annealed_evidence(vi, posterior=vi.refine(X[:5]), temperatures=3, chains=2, **QUIET)
    torch.testing.assert_close(found.log_weight, EVIDENCE[:5].expand(2, -1), rtol=0, atol=0.05)


@pytest.mark.parametrize("numbers", [16, 512])
def test_chunks_are_joined_in_order(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chain that starts from an exact posterior has the evidence as its weight."""
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", numbers)
    options = {"temperatures": 2, "chains": 7, "leapfrog_steps": 1, **QUIET}
    table = pd.DataFrame(X[:3].numpy(), index=["a", "b", "c"])
    found = annealed_evidence(solved(MODEL), table, **options)
    torch.testing.assert_close(found.log_weight, EVIDENCE[:3].expand(7, -1), rtol=0, atol=1e-6)
    assert (found.standard_error < 1e-6).all()
    torch.testing.assert_close(found.ess, torch.full_like(found.ess, 7.0))
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
    found = annealed_evidence(diagonal, X[:1], temperatures=2, chains=2, seed=0, progress=True)
    assert "annealing: 100%" in capsys.readouterr().err
    assert repr(found).startswith("AnnealedEvidence(1 observation, 2 chains, 2 temperatures from the posterior: mean")


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
    ("options", "error"),
    [
        ({"chains": 1}, OptionError),
        ({"temperatures": 0}, OptionError),
        ({"leapfrog_steps": 1.5}, OptionError),
        ({"start": "guide"}, OptionError),
        ({"posterior": solved(MODEL).posterior(X[:5])}, OptionError),
        ({"exact_draws": torch.zeros(4, 3)}, DataError),
        ({"exact_draws": {"w": torch.zeros(5, 3)}}, DataError),
        ({"exact_draws": {"z": torch.zeros(4, 3)}}, DataError),
        ({"exact_draws": {"z": torch.zeros(2, 5, 3)}}, DataError),
    ],
)
def test_bad_options(diagonal: avi.AmortizedVI, options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=name):
        annealed_evidence(diagonal, X[:5], **options)


def test_the_evidence_is_between_the_bounds_which_more_temperatures_narrow(eight: avi.AmortizedVI) -> None:
    gaps = []
    for start, temperatures in (("prior", 5), ("prior", 60), ("posterior", 30)):
        bracket = bracket_evidence(eight, 40, start=start, temperatures=temperatures, leapfrog_steps=2, **QUIET)
        truth = EIGHT.log_evidence(bracket.simulated.batch.args[0]).double()
        lower, upper = (bound.log_evidence - truth for bound in (bracket.lower, bracket.upper))
        for error, sign in ((lower, 1), (upper, -1)):
            assert sign * error.mean() < 5 * error.std() / math.sqrt(len(error))
        assert bracket.mean_gap == pytest.approx(float((upper - lower).mean()))
        gaps.append(bracket.mean_gap)
    assert gaps[0] > 3 * gaps[1]
    assert gaps[2] < 0.6
    assert list(bracket.to_frame().columns) == ["lower", "lower_se", "upper", "upper_se", "gap"]
    assert "<= mean log p(x) <=" in str(bracket)
