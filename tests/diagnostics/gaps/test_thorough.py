"""Annealing and NUTS as the next step, and when they decide."""

import warnings
from dataclasses import replace

import pytest
import torch

import amortvi as avi
from amortvi.diagnostics.gaps import diagnose
from amortvi.diagnostics.gaps import thorough as module
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(2, 3)
X = MODEL.simulate(30, seed=1)


@pytest.fixture(scope="module")
def examined() -> avi.diagnostics.Diagnosis:
    """A diagnosis of the best diagonal posterior, with short chains."""
    vi = solved(MODEL, avi.families.Diagonal).fit(X, epochs=1, lr=1e-30, standardize=False, progress=False, seed=0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.setattr(module, "_ANNEALING", {"temperatures": 60, "chains": 16, "leapfrog_steps": 2, "progress": False})
        patch.setattr(module, "_SAMPLING", {"chains": 2, "draws": 20, "warmup": 20, "together": 2, "progress": False})
        patch.setattr(module, "_ANNEALED", 12)
        return diagnose(vi, X, thorough=True)


def test_annealing_agrees_with_the_exact_evidence(examined: avi.diagnostics.Diagnosis) -> None:
    found = examined.thorough
    exact = MODEL.log_evidence(X[found.rows])
    assert len(found.rows) == 12
    assert abs(float((found.annealed.log_evidence - exact).mean())) < found.error + 0.05
    assert "Annealed importance sampling of 12 observations" in examined.statement
    assert "NUTS for 2 of them" in examined.statement


def test_annealing_decides_if_it_is_accurate_and_the_rest_is_unreliable(examined: avi.diagnostics.Diagnosis) -> None:
    assert examined.judged is examined.gaps
    proposed = replace(examined.gaps.proposed, k_hat=torch.ones(30, dtype=torch.float64))
    unsure = replace(examined, gaps=replace(examined.gaps, proposed=proposed))
    assert (unsure.fault != "unreliable") == unsure.thorough.trusted
    unknown = replace(unsure, thorough=replace(unsure.thorough, bracket=None))
    assert unknown.fault == "unreliable"
    assert "cannot be checked" in unknown.statement
    assert replace(unsure, thorough=None).statement.endswith("thorough=True).")
