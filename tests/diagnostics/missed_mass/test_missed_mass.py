"""The check for missed posterior mass: exact posteriors pass, planted misses are found and measured, and where they are."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Normal

import amortvi as avi
from amortvi.diagnostics import simulate_observations
from amortvi.diagnostics.evidence import evidence
from amortvi.diagnostics.missed_mass import MissedMass, location_and_scale, missed_mass
from amortvi.errors import OptionError
from tests.exact import linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(40, seed=1)
LARGE = 2.5


def found_for(excess: Tensor, features: Tensor | None = None, counted: Tensor | None = None) -> MissedMass:
    """Return a result for simulated observations whose true latents exceed all weights by ``excess``."""
    features = torch.zeros(len(excess), 1, dtype=torch.float64) if features is None else features
    counted = torch.ones(len(excess), dtype=torch.bool) if counted is None else counted
    return MissedMass(1000, excess=excess, gap=excess, counted=counted, features=features)


@pytest.mark.parametrize("widen", [1.0, 1.5])
def test_nothing_is_missed_by_exact_and_by_wide_posteriors(widen: float) -> None:
    """Weights are constant, or bounded and largest at the mode, which a thousand draws cover."""
    found = evidence(solved(MODEL, widen=widen), X, seed=0)
    assert found.missed.fraction < 0.03
    assert found.missed.counted.all()
    assert found.reliable.all()
    assert "at most" in str(found)
    assert "±" in str(found)


def test_the_gap_is_the_kl_that_importance_sampling_does_not_remove() -> None:
    """E[log w(z*)] - log p(x) is KL(p || q); the draws of an exact or a wide posterior determine log p(x)."""
    vi = solved(MODEL, widen=1.5)
    gap = missed_mass(vi, vi.posterior(X), 2000, draws=1000, seed=0).gap
    exact = 3 * (math.log(1.5) + 0.5 / 1.5**2 - 0.5)
    assert float(gap.mean()) == pytest.approx(exact, abs=5 * float(gap.std()) / 2000**0.5 + 0.01)


def test_the_share_that_is_missed_agrees_with_independent_draws() -> None:
    """The data say nothing, so the exact posterior is the prior, N(0, 1); q is N(1, 0.7^2)."""
    prior, q, draws, repetitions = Normal(0.0, 1.0), Normal(1.0, 0.7), 1000, 4000
    torch.manual_seed(0)

    def log_weight(z: Tensor) -> Tensor:
        return prior.log_prob(z) - q.log_prob(z)

    largest = log_weight(q.sample((draws, repetitions))).amax(0)
    expected = (log_weight(prior.sample((repetitions,))) > largest).double()
    x = torch.randn(50)
    vi = with_parameters(
        one_latent(dist.Normal(0.0, 1.0)), torch.tensor([1.0, math.log(0.7)]), x, avi.families.Diagonal
    )
    found = missed_mass(vi, vi.posterior(x), 4000, draws=draws, seed=0)
    share = (found.excess > 0).double()
    error = float((expected.var() / repetitions + share.var() / 4000).sqrt())
    assert abs(float(share.mean() - expected.mean())) < 5 * error
    assert 0.05 < float(expected.mean()) < 0.95


def test_misses_are_charged_to_the_observations_where_they_occur() -> None:
    """Half of the simulated observations miss half of the posterior, and can be told by their features."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(400, 1, generator=generator, dtype=torch.float64)
    missed = (features[:, 0] > 0.5) & (torch.rand(400, generator=generator) < 0.5)
    found = found_for(torch.where(missed, 9.0, -1.0).double(), features)
    asked = torch.tensor([[0.1], [0.2], [0.8], [0.9]], dtype=torch.float64)
    applied = found.applied_to(asked, torch.full((4,), 0.01, dtype=torch.float64))
    assert applied.significant.tolist() == [False, False, True, True]
    assert applied.nats[:2].tolist() == [0, 0]
    assert ((applied.nats[2:] - math.log(2)).abs() < 5 * applied.nats_se[2:]).all()
    assert found.failed
    low, high = found.interval
    assert low < 0.25 < high
    # What is missed is negligible if the standard error is much larger.
    assert not found.applied_to(asked, torch.full((4,), 1.0, dtype=torch.float64)).significant.any()


def test_exact_posteriors_raise_no_false_alarm() -> None:
    """The true weight exceeds 1,000 others with a probability of 1 / 1,001."""
    generator = torch.Generator().manual_seed(1)
    alarms = 0
    for _ in range(200):
        features = torch.rand(300, 2, generator=generator, dtype=torch.float64)
        missed = torch.rand(300, generator=generator) < 1 / 1001
        found = found_for(torch.where(missed, 1.0, -1.0).double(), features)
        applied = found.applied_to(features[:50], torch.zeros(50, dtype=torch.float64))
        alarms += int(applied.significant.any())
    assert alarms <= 2


def test_observations_whose_neighbors_are_unreliable_are_not_judged() -> None:
    features = torch.linspace(0, 1, 300, dtype=torch.float64).unsqueeze(1)
    found = found_for(-torch.ones(300, dtype=torch.float64), features, features[:, 0] < 0.5)
    applied = found.applied_to(torch.tensor([[0.2], [0.8]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    assert applied.unjudged.tolist() == [False, True]
    assert not applied.significant.any()


def test_everything_missed_is_finite() -> None:
    found = found_for(torch.full((300,), torch.inf, dtype=torch.float64))
    applied = found.applied_to(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    assert applied.significant.all()
    assert applied.nats.isfinite().all()
    assert (applied.nats > 3).all()
    assert "100%" in str(found)


def test_too_few_reliable_simulations_leave_everything_open() -> None:
    """With 0.1 of the exact width, the weights of simulated observations are as unreliable as those of others."""
    found = evidence(solved(MODEL, widen=0.1), X, seed=0)
    assert not found.missed.known
    assert found.missed.unjudged.all()
    assert not found.reliable.any()
    assert "±" not in str(found)
    assert "unknown" in str(found)


def test_models_that_cannot_be_simulated() -> None:
    def weighted(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.scale(scale=0.5):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(20)
    vi = avi.AmortizedVI(weighted, avi.encoders.MLP(1, []), "full").setup(x, seed=0)
    found = evidence(vi, posterior=vi.refine(x), seed=0)
    assert "has a weight" in found.missed.reason
    assert found.reliable.all()  # as far as anyone can tell
    assert "cannot be checked" in str(found)


@pytest.mark.parametrize("refined", [False, True])
def test_the_posteriors_of_simulated_data_are_made_like_those_that_are_checked(refined: bool) -> None:
    """The encoder's posterior is shifted; refinement, also in another family, removes the shift."""
    vi = solved(MODEL, avi.families.Diagonal)
    with torch.no_grad():
        vi.encoder.bias[:3] += 1.0
    posterior = vi.refine(X, family="full") if refined else vi.posterior(X)
    gap = evidence(vi, posterior=posterior, seed=0).missed.gap
    assert (abs(float(gap.mean())) < 0.05) == refined


def test_simulations_can_be_given_or_omitted() -> None:
    vi = solved(MODEL)
    simulated = simulate_observations(vi, 70, seed=3)
    assert len(evidence(vi, X, simulations=simulated, seed=0).missed.gap) == 70
    assert evidence(vi, X, simulations=0, seed=0).missed is None
    assert evidence(vi, X, draws=20, seed=0).missed is None  # k-hat is unknown, so nothing is reliable anyway
    for wrong in (-1, 2.5, "some"):
        with pytest.raises(OptionError, match="simulations"):
            evidence(vi, X, simulations=wrong)


def test_features_do_not_change_the_draws() -> None:
    """A flow has no moments in closed form; those of draws leave the random state alone."""
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [4]), "flow").to(dtype=torch.float64).setup(X, seed=0)
    found = evidence(vi, X, draws=50, simulations=30, seed=3)
    torch.testing.assert_close(found.elbo, evidence(vi, X, draws=50, simulations=0, seed=3).elbo)
    q = Normal(torch.tensor([[1.0, 2.0]]), torch.tensor([[math.e, 1.0]]))
    torch.testing.assert_close(location_and_scale(q), torch.tensor([[1.0, 2.0, 1.0, 0.0]], dtype=torch.float64))


def test_no_standard_error_is_shown_where_mass_is_missed() -> None:
    found = evidence(solved(MODEL), X, seed=0)
    failed = found_for(
        torch.where(torch.arange(300) < 100, 5.0, -1.0).double(), torch.zeros(300, 6, dtype=torch.float64)
    )
    features = torch.zeros(len(X), 6, dtype=torch.float64)
    shown = str(replace(found, missed=failed.applied_to(features, found.standard_error)))
    assert "±" not in shown
    assert "miss 33%" in shown


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("refined", [False, True])
def test_simulated_observations_without_a_posterior_are_left_out(refined: bool, raises: bool) -> None:
    """The encoder returns NaN, or fails, if the first feature is large."""

    def partial(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        large = args[0][:, :1] > LARGE
        if raises and bool(large.any()):
            raise IndexError("index out of range")
        return torch.where(large, torch.nan, output)

    vi, x = solved(MODEL), X[X[:, 0] <= LARGE]
    vi.encoder.register_forward_hook(partial)
    simulated = simulate_observations(vi, 300, seed=3)
    large = int((simulated.batch.args[0][:, 0] > LARGE).sum())
    assert 5 < large < 100
    posterior = vi.refine(x) if refined else vi.posterior(x)
    found = evidence(vi, posterior=posterior, simulations=simulated, seed=0)
    assert found.missed.left_out == large
    assert len(found.missed.counted) == 300 - large
    assert found.missed.gap.abs().max() < 0.1  # each of the others is compared with its own latents
    assert found.reliable.all()
    assert f"({large} others, without a finite posterior, are left out)" in str(found)


def test_encoders_that_fail_on_all_simulated_observations() -> None:
    vi = solved(MODEL)
    posterior = vi.refine(X)
    vi.encoder.register_forward_hook(lambda _, x, y: y * torch.nan)
    found = evidence(vi, posterior=posterior, simulations=30, seed=0)
    assert not found.missed.known
    assert "not finite for 30 of 30 observations" in found.missed.reason


def test_refinements_of_simulated_data_leave_the_random_state_alone() -> None:
    """The search in the low-rank family starts from random numbers."""
    vi = solved(MODEL)
    posterior, state = vi.refine(X, family="low_rank"), torch.get_rng_state()
    first, second = (evidence(vi, posterior=posterior, simulations=30, seed=0).missed for _ in range(2))
    assert torch.equal(first.gap, second.gap)
    assert torch.equal(torch.get_rng_state(), state)


def with_factor(x: Tensor) -> None:
    """The likelihood is a factor, so data cannot be simulated."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("x", dist.Normal(z, 0.5).log_prob(x))


def test_models_with_a_factor_can_be_checked_with_a_simulator() -> None:
    """Without one, everything says what cannot be checked, why, and what to do."""

    def simulator(count: int) -> tuple[dict[str, Tensor], Tensor]:
        z = torch.randn(count)
        return {"z": z}, z + 0.5 * torch.randn(count)

    torch.manual_seed(0)
    x = simulator(20)[1]
    vi = avi.AmortizedVI(with_factor, avi.encoders.MLP(1, []), "full")
    vi.fit(x, epochs=200, lr=0.03, seed=0, progress=False)
    found = evidence(vi, x, seed=0), avi.gaps(vi, x, seed=0), avi.diagnose(vi, x, seed=0)
    for result in found:
        said = str(result)
        assert (
            "Whether the draws miss a part of the exact posterior cannot be checked: site 'x' is a pyro.factor" in said
        )
        assert "simulations=, the result of diagnostics.simulate_observations(vi, n, simulator=...)" in said
        assert "annealed_evidence" in said
        assert "reference" in said
    assert found[0].reliable.all()
    assert found[2].fault == "ok"
    simulated = simulate_observations(vi, 100, simulator=simulator, seed=0)
    for ask in (evidence, avi.gaps, avi.diagnose):
        result = ask(vi, x, simulations=simulated, seed=0)
        assert "cannot be checked" not in str(result)
    assert evidence(vi, x, simulations=simulated, seed=0).missed.known
