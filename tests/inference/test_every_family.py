"""Every family as that of an estimator: fit, engines, refinement, gaps, comparison, export, save and load."""

from pathlib import Path

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.families import FamilyChoice
from tests.arviz_versions import groups
from tests.exact import linear_gaussian
from tests.families.cases import FAMILIES

MODEL = linear_gaussian(3, 4, dtype=torch.float32)
X = MODEL.simulate(120, seed=0)
EVIDENCE = float(MODEL.log_evidence(X).mean())


def make_vi(family: FamilyChoice) -> avi.AmortizedVI:
    torch.manual_seed(0)
    return avi.AmortizedVI(MODEL, avi.encoders.MLP(4, []), family, freeze_model=True)


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(request: pytest.FixtureRequest) -> tuple[FamilyChoice, avi.AmortizedVI]:
    family = FAMILIES[request.param]
    return family, make_vi(family).fit(X, epochs=150, lr=0.02, seed=0, progress=False)


def test_refinement_improves_towards_the_evidence(fitted: tuple[FamilyChoice, avi.AmortizedVI]) -> None:
    _, vi = fitted
    before = vi.evaluate(X, particles=300, seed=0)
    refined = vi.refine(X)
    after = vi.evaluate(posterior=refined, particles=300, seed=0)
    error = 5 * float(np.hypot(before["elbo_se"], after["elbo_se"]).mean()) / len(X) ** 0.5
    assert after["elbo"].mean() > before["elbo"].mean() - error
    assert after["elbo"].mean() < EVIDENCE + error
    # The posteriors are Gaussian, so every family but those with heavy tails or independent coordinates is nearly exact.
    assert EVIDENCE - after["elbo"].mean() < MODEL.diagonal_gap() + 0.15


def test_gaps_add_up(fitted: tuple[FamilyChoice, avi.AmortizedVI]) -> None:
    _, vi = fitted
    found = avi.gaps(vi, X[:20], families=["full"], draws=300, simulations=0)
    torch.testing.assert_close(found.approximation + found.amortization, found.inference)
    assert abs(float(found.evidence.mean()) - float(MODEL.log_evidence(X[:20]).mean())) < 0.02


def test_draws_and_export_agree(fitted: tuple[FamilyChoice, avi.AmortizedVI]) -> None:
    _, vi = fitted
    posterior = vi.posterior(X[:20])
    draws = posterior.sample(4000, seed=0)["z"]
    assert ((posterior.mean["z"] - draws.mean(0)).abs() < 8 * posterior.std["z"] / 1000**0.5).all()
    found = groups(vi.to_arviz(X[:20], 5, seed=0))
    density = posterior.log_prob({"z": torch.tensor(found["posterior"]["z"].values[0])})
    np.testing.assert_allclose(found["sample_stats"]["log_q"][0], density, rtol=2e-3, atol=2e-3)


def test_a_saved_run_is_the_same(fitted: tuple[FamilyChoice, avi.AmortizedVI], tmp_path: Path) -> None:
    family, vi = fitted
    vi.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(
        tmp_path / "run", MODEL, avi.encoders.MLP(4, []), None if isinstance(family, str) else family
    )
    assert torch.equal(vi.posterior(X).sample(3, seed=0)["z"], loaded.posterior(X).sample(3, seed=0)["z"])


@pytest.mark.parametrize("objective", ["elbo", avi.objectives.IWAE(4), avi.objectives.Renyi(0.5)])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_recorded_step_equals_the_eager_one(name: str, objective: object) -> None:
    parameters = []
    for compiled in ("auto", False):
        vi = make_vi(FAMILIES[name])
        vi.fit(X, epochs=12, batch_size=30, objective=objective, compile=compiled, seed=0, progress=False)
        parameters.append(torch.cat([p.detach().flatten() for p in vi.guide.parameters()]))
    torch.testing.assert_close(*parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_of_every_objective_trains(name: str) -> None:
    for objective in (avi.objectives.IWAE(5), avi.objectives.Renyi(0.5, 5)):
        vi = make_vi(FAMILIES[name]).setup(X, seed=0)
        before = vi.evaluate(X, particles=100, seed=0)["elbo"].mean()
        vi.fit(X, epochs=60, lr=0.01, objective=objective, seed=0, progress=False)
        assert vi.evaluate(X, particles=100, seed=0)["elbo"].mean() > before + 0.5
