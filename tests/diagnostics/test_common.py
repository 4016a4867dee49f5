"""Diagnostics are reproducible, change no state and need data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import amortvi as avi
from amortvi.diagnostics import simulate_observations
from amortvi.diagnostics.annealing import annealed_evidence
from amortvi.errors import NotFittedError
from tests.bad_input.helpers import nothing_changes
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
DIAGONAL = solved(MODEL, avi.families.Diagonal)
X = MODEL.simulate(50, seed=1)
NUTS = {"chains": 2, "draws": 4, "warmup": 4, "progress": False}

CALLS: dict[str, Callable[[Any, int], Any]] = {
    "annealed_evidence": lambda vi, seed: (
        annealed_evidence(vi, X, temperatures=2, chains=2, leapfrog_steps=1, progress=False, seed=seed).log_weight
    ),
    "evidence": lambda vi, seed: avi.evidence(vi, X, draws=30, seed=seed).elbo,
    "gaps": lambda vi, seed: avi.gaps(vi, X[:3], draws=30, seed=seed).to_frame()["elbo"],
    "calibrate": lambda vi, seed: avi.calibrate(vi, 60, 20, seed=seed).to_frame()["p_value"],
    "simulate_observations": lambda vi, seed: simulate_observations(vi, 50, seed=seed).batch.args[0],
    "latent_usage": lambda vi, seed: avi.latent_usage(vi, X, points=100, seed=seed).aggregate,
    "predictive_check": lambda vi, seed: avi.predictive_check(vi, X, draws=5, seed=seed).statistics[0].replicated,
    "reference": lambda vi, seed: avi.reference(vi, X[:1], **NUTS, seed=seed).vector,
    "Reference.distances": lambda vi, seed: (
        avi.reference(vi, X[:2], **NUTS, seed=0).distances(vi.posterior(X[:2]), c2st=False, seed=seed).mean_error
    ),
}
"""Each calls a diagnostic with an estimator and a seed, and returns some numbers of its result."""


@pytest.mark.filterwarnings("ignore:.*r-hat above:amortvi.errors.AmortviWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_seed_reproduces_the_result_and_no_state_changes(name: str) -> None:
    with nothing_changes(DIAGONAL):
        one, same, other = (np.asarray(CALLS[name](DIAGONAL, seed)) for seed in (3, 3, 4))
    assert all(parameter.grad is None for parameter in DIAGONAL.guide.parameters())
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("name", CALLS)
def test_an_estimator_without_data_is_refused(name: str) -> None:
    with pytest.raises(NotFittedError):
        CALLS[name](avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])), 0)
