"""A recorded or compiled step learns the same as an eager one, for models of many kinds."""

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import amortvi as avi
from amortvi.compile.recording import Recording
from amortvi.objectives import ELBO, CyclicalSchedule
from tests.any_models import CASES, Case
from tests.training.steps.fits import assert_equal
from tests.training.steps.global_state import assert_unchanged, global_state

RECORDED = (
    "parameters of a function",
    "a network outside",
    "the method of a module",
    "many supports",
    "one latent on another",
    "plates on both sides",
    "subsampled in parts",
    "a mask",
    "weights",
    "keywords",
    "normalisation and dropout",
    "convolutions",
)
"""Models that differ in what is recorded. Others are recorded in the slow tests."""
assert set(RECORDED) <= CASES.keys()

# The update of SGD is linear in the gradient, so that errors remain those of rounding: 1e-16 in double precision, and about 1e-8
# where a distribution of Pyro computes in single precision.
TOLERANCE = 1e-6
# Networks that belong to no module are not converted by fit(dtype=...), and rounding in single precision is 1e-7.
SINGLE = {"a network outside": 1e-4}


def fitted(case: Case, *, dtype: torch.dtype, compile: bool, **options: Any) -> avi.AmortizedVI:
    """Fit in a few steps that all see the same observations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), "diagonal")
    x = tree_map(lambda value: value.to(dtype) if value.is_floating_point() else value, case.x)
    options = {"epochs": 6, "lr": 1e-3, "optimizer": torch.optim.SGD, **options}
    return vi.fit(x, dtype=dtype, seed=0, compile=compile, progress=False, **options)


def check(name: str, **options: Any) -> None:
    options["dtype"] = torch.float32 if name in SINGLE else torch.float64
    compiled, eager = (fitted(CASES[name], compile=compile, **options) for compile in (True, False))
    assert_equal(compiled, eager, SINGLE.get(name, TOLERANCE))


@pytest.mark.parametrize(
    "name", [name if name in RECORDED else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_recorded_step_learns_the_same(name: str, recordings: list[Recording]) -> None:
    check(name)
    assert len(recordings) == 1


def test_a_compiled_fit_learns_the_same_and_leaves_the_global_state() -> None:
    """With the compiler: running statistics, dropout, and every kind of option at once."""
    case = CASES["normalisation and dropout"]
    options = {
        "batch_size": 6,
        "dtype": torch.float32,
        "lr_schedule": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8),
        "gradient_clip": 10.0,
        # With a large eps, an update changes by at most the rounding error of the gradient, 1e-6, times lr / eps = 1.
        "optimizer": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, eps=0.01),
        "lr": 0.01,
    }

    def objective() -> ELBO:
        schedule = CyclicalSchedule(epochs=4, cycles=2)
        return ELBO(gradient="sticking_the_landing", kl_weight=schedule, free_bits=0.1)

    before = global_state()
    compiled = fitted(case, compile=True, objective=objective(), **options)
    assert_unchanged(before)
    assert_equal(compiled, fitted(case, compile=False, objective=objective(), **options), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_any_compiled_step_learns_the_same(name: str) -> None:
    check(name, epochs=20)
