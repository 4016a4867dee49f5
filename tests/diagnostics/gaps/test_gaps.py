"""Approximation and amortization gaps, compared with exact values; defensive mixtures."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import MultivariateNormal, StudentT

import amortvi as avi
from amortvi.diagnostics.evidence import evidence
from amortvi.diagnostics.gaps import DefensiveMixture, defensive, gaps
from amortvi.diagnostics.missed_mass import check
from amortvi.diagnostics.simulation import Simulated, simulate_observations
from amortvi.errors import FamilyError, NonFiniteError, OptionError
from amortvi.families import Diagonal, FullCovariance
from amortvi.importance import pareto_smoothed
from tests.exact import linear_gaussian, solved
from tests.families.network_family import NetworkFamily

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(60, seed=1)


def shifted(family: type[avi.families.GaussianFamily], size: float) -> tuple[avi.AmortizedVI, float]:
    """Return an estimator and its amortization gap: shifting a Gaussian by ``d`` costs ``d' M d / 2``."""
    vi, offset = solved(MODEL, family), size * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    with torch.no_grad():
        vi.encoder.bias[:4] += offset
    return vi, float(0.5 * offset @ MODEL.precision() @ offset)


def assert_mean(values: Tensor, exact: float) -> None:
    """Assert that the mean is ``exact`` within five standard errors, and within the tolerance of the refinement."""
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - exact) < 5 * error + 0.01


@pytest.fixture(scope="module")
def diagonal() -> avi.AmortizedVI:
    return solved(MODEL, avi.families.Diagonal)


@pytest.mark.parametrize(
    ("family", "shift", "verdict"),
    [
        (avi.families.Diagonal, 0.0, "family"),
        (avi.families.FullCovariance, 0.0, "ok"),
        (avi.families.Diagonal, 1.0, "encoder"),
        (avi.families.FullCovariance, 1.0, "encoder"),
    ],
)
def test_gaps_and_verdicts(family: type[avi.families.GaussianFamily], shift: float, verdict: str) -> None:
    vi, cost = shifted(family, shift)
    found = gaps(vi, X)
    approximation = MODEL.diagonal_gap() if family is avi.families.Diagonal else 0.0
    if verdict != "ok":
        assert abs(cost - approximation) > 0.4  # four times the tolerance
    assert_mean(found.approximation, approximation)
    assert_mean(found.amortization, cost)
    assert set(found.verdict) == {verdict}
    assert ((found.evidence - MODEL.log_evidence(X)).abs() < 6 * found.evidence_se).all()


def test_the_table(diagonal: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X[:7].numpy(), index=list("abcdefg"))
    found = gaps(diagonal, frame, ["low_rank", "full"], draws=200, seed=3)
    table = found.to_frame()
    np.testing.assert_allclose(table["inference_gap"], table["approximation_gap"] + table["amortization_gap"])
    np.testing.assert_allclose(table["inference_gap"], table["evidence"] - table["elbo"])
    assert list(table.index) == list(frame.index)
    assert {"elbo_low_rank", "elbo_full", "evidence_se", "k_hat", "ess", "verdict"} <= set(table.columns)
    assert table["elbo_full"].mean() > table["elbo_low_rank"].mean() > table["elbo"].mean()
    assert found.summary().loc["evidence", "mean"] == pytest.approx(table["evidence"].mean())
    assert found.verdicts() == {"ok": 0, "family": 7, "encoder": 0, "unreliable": 0}
    assert "family: 7" in str(found)


def test_heavy_tails_are_unreliable() -> None:
    """The posterior, nearly the prior, has far heavier tails than even the defensive mixture."""

    def heavy(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.StudentT(0.3, 0.0, 1.0))
            pyro.sample("x", dist.StudentT(0.3, 1e-6 * z, 50.0), obs=x)

    x = torch.linspace(-1, 1, 20)
    torch.manual_seed(0)
    found = gaps(avi.AmortizedVI(heavy, avi.encoders.MLP(1, [4])).setup(x, seed=0), x)
    assert found.verdicts()["unreliable"] > 10


def test_one_observation_without_a_posterior_is_named() -> None:
    vi = solved(MODEL, avi.families.Diagonal)
    vi.encoder.register_forward_hook(lambda _, x, y: torch.where((x[0] == X[0]).all(1, keepdim=True), torch.nan, y))
    with pytest.raises(NonFiniteError, match=r"1 of 10 observations .*position 0"):
        gaps(vi, X[:10])
    found = gaps(vi, X[1:10])
    assert found.verdict == ["family"] * 9
    assert_mean(found.approximation, MODEL.diagonal_gap())


def test_one_observation_without_a_bound_does_not_affect_the_others() -> None:
    found = gaps(solved(MODEL, avi.families.Diagonal), X[:10])
    log_evidence = found.proposed.smoothed.clone()
    log_evidence[0] = torch.nan
    some = replace(found, proposed=replace(found.proposed, smoothed=log_evidence))
    assert some.verdict == ["unreliable", *["family"] * 9]
    assert some.summary()["count"].eq(9).all()
    assert "nan" not in str(some)


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"families": "full"}, OptionError, "families"),
        ({"families": ["full", "full"]}, OptionError, "families"),
        ({"families": ["fulll"]}, FamilyError, "family"),
        ({"families": ["flow"]}, FamilyError, "refine cannot start with family=Flow"),
        ({"families": [NetworkFamily]}, FamilyError, "NetworkFamily has none"),
        ({"draws": 0}, OptionError, "draws"),
        ({"draws": 20}, OptionError, "draws .* 21"),
        ({"tolerance": -1}, OptionError, "tolerance"),
        ({"seed": -1}, OptionError, "seed"),
    ],
)
def test_bad_options(diagonal: avi.AmortizedVI, options, error, argument) -> None:
    with pytest.raises(error, match=argument):
        gaps(diagonal, X[:3], **options)


def test_families_without_parameters_for_each_observation_are_refused() -> None:
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(6, [4]), NetworkFamily).to(dtype=torch.float64)
    with pytest.raises(FamilyError, match="NetworkFamily has none"):
        gaps(vi.setup(X, seed=0), X)


def test_draws_follow_the_density() -> None:
    """The mean importance weight of the Gaussian is one, and the weighted second moments are its covariance."""
    torch.manual_seed(0)
    family = FullCovariance().setup(3, 1)
    found = DefensiveMixture(family.distribution(0.5 * torch.randn(family.num_parameters, dtype=torch.float64)))
    target = MultivariateNormal(found.gaussian.mean, found.gaussian.covariance_matrix)
    draws = found.sample(torch.Size([100_000]))
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
    plain, guarded = (q.sample(torch.Size([4000])) for q in (gaussian, DefensiveMixture(gaussian)))
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


def test_data_are_simulated_once(diagonal: avi.AmortizedVI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both proposals are checked on the same data, as if each had simulated them."""
    calls = []

    def count(*args: Any, **kwargs: Any) -> Simulated:
        calls.append(args)
        return simulate_observations(*args, **kwargs)

    monkeypatch.setattr(check, "simulate_observations", count)
    found = gaps(diagonal, X[:5], simulations=30, draws=100)
    assert len(calls) == 1
    alone = evidence(diagonal, X[:5], simulations=30, draws=100, seed=0)
    torch.testing.assert_close(found.amortized.missed.gap, alone.missed.gap)
    assert len(found.proposed.missed.gap) == 30
    gaps(diagonal, X[:5], simulations=0, draws=100)
    assert len(calls) == 2  # by `evidence`
