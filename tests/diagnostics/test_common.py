"""Diagnostics are reproducible, leave the random state untouched and need data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.diagnostics import simulate_observations
from amortvi.errors import NotFittedError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
EXACT = solved(MODEL)
X = MODEL.simulate(50, seed=1)
NUTS = {"chains": 2, "draws": 4, "warmup": 4, "progress": False}

CALLS: dict[str, Callable[[Any, int], Any]] = {
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
def test_a_seed_reproduces_the_result_and_leaves_the_random_state(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = (np.asarray(CALLS[name](EXACT, seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("name", CALLS)
def test_an_estimator_without_data_is_refused(name: str) -> None:
    with pytest.raises(NotFittedError):
        CALLS[name](avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])), 0)
