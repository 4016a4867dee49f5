"""A recorded or compiled step learns the same as an eager one, for models, objectives and optimizers of many kinds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import amortvi as avi
from amortvi.compile.recording import Recording
from amortvi.families import FullCovariance
from amortvi.objectives import ELBO, IWAE, CyclicalSchedule, LinearSchedule, Objective, Renyi
from tests.any_models import CASES, Case
from tests.global_state import nothing_changes
from tests.training.steps.fits import TOLERANCE, X, assert_equal, check_as_eager, estimator, fitted

VALIDATION = X[:5].double()
RECORDED = {
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
    "a set",
    "attention to a set",
    "a sequence",
}
"""Models that differ in what is recorded. Others are recorded in the slow tests."""
assert CASES.keys() >= RECORDED


def fitted_case(case: Case, dtype: torch.dtype, **options: Any) -> avi.AmortizedVI:
    """Fit a model in a few steps that all see the same observations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), "diagonal")
    x = tree_map(lambda value: value.to(dtype) if value.is_floating_point() else value, case.x)
    options = {"epochs": 12, "lr": 1e-3, "optimizer": torch.optim.SGD} | options
    return vi.fit(x, dtype=dtype, seed=0, progress=False, **options)


@pytest.mark.parametrize(
    "name", [name if name in RECORDED else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_models(name: str, graphs: list[Recording]) -> None:
    # The update of SGD is linear in the gradient, so that errors remain those of rounding: 1e-16 in double precision, and about
    # 1e-8 where a distribution of Pyro computes in single precision. Networks that belong to no module are not converted by
    # fit(dtype=...), and rounding in single precision is 1e-7.
    dtype, tolerance = (torch.float32, 1e-4) if name == "a network outside" else (torch.float64, 1e-6)
    compiled, eager = (fitted_case(CASES[name], dtype, compile=compile) for compile in (True, False))
    assert_equal(compiled, eager, tolerance)
    assert len(graphs) == 1


def test_a_compiled_fit_learns_the_same_and_leaves_the_global_state() -> None:
    """With the compiler: running statistics, dropout, and every kind of option at once."""
    fit = partial(
        fitted_case,
        CASES["normalisation and dropout"],
        torch.float32,
        lr_schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8),
        gradient_clip=10.0,
        objective=OBJECTIVES["all options"](),
        # With a large eps, an update changes by at most the rounding error of the gradient, 1e-6, times lr / eps = 1.
        optimizer=partial(torch.optim.Adam, eps=0.01),
        lr=0.01,
    )
    with nothing_changes():
        compiled = fit(compile=True)
    assert_equal(compiled, fit(compile=False), 1e-4)


# The conformance suite records every objective. These combine their parts.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "free bits": lambda: ELBO(2, free_bits=0.1),
    "sampled KL": lambda: ELBO(3, kl="sampled"),
    "a linear schedule": lambda: ELBO(kl_weight=LinearSchedule(epochs=4.3, start=0.1)),
    "all options": lambda: ELBO(
        gradient="sticking_the_landing", kl_weight=CyclicalSchedule(epochs=4, cycles=2), free_bits=0.1
    ),
    "iwae": lambda: IWAE(4),
    "iwae, plain": lambda: IWAE(4, gradient="plain"),
    "renyi": lambda: Renyi(0.3, 4),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str, graphs: list[Recording]) -> None:
    check_as_eager(partial(estimator, family=FullCovariance), objective=OBJECTIVES[name]())
    assert len(graphs) == 1


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip": 0.1},
        {"validation_data": VALIDATION, "patience": 1, "lr": 0.3},
        {"validation_data": VALIDATION, "batch_size": 8, "objective": OBJECTIVES["all options"]()},
    ],
    ids=["clipping", "patience", "validation and a smaller last batch"],
)
def test_options(options: dict[str, Any]) -> None:
    check_as_eager(**options)


class Counting(torch.optim.SGD):
    """Counts its steps in Python, so it cannot be recorded."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        self.param_groups[0]["lr"] = 0.01 / self.steps
        return super().step(closure)


def with_hook(parameters: Any, lr: float) -> torch.optim.Optimizer:
    made = torch.optim.Adam(parameters, lr=lr)
    made.register_step_post_hook(lambda optimizer, args, kwargs: optimizer.param_groups[0].update(lr=0.002))
    return made


def two_groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    parameters = list(parameters)
    return torch.optim.Adam([{"params": parameters[:2], "lr": lr / 10}, {"params": parameters[2:]}], lr=lr)


DECAYED = "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax NAdam RAdam RMSprop"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **{name: partial(getattr(torch.optim, name), weight_decay=0.1) for name in DECAYED.split()},
    "Rprop": torch.optim.Rprop,
    "SGD": torch.optim.SGD,
    "SGD with momentum": partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "fused Adam with amsgrad": partial(torch.optim.Adam, fused=True, amsgrad=True),
    "AdamW with foreach": partial(torch.optim.AdamW, foreach=True),
    "two groups": two_groups,
    "counts in Python": Counting,
    "with a hook": with_hook,
}
NOT_RECORDABLE = {"Adafactor", "counts in Python", "with a hook"}
# The fused kernel counts in single precision: 1 - beta ** step has a relative error of 6e-8 / (0.001 step), half of which enters
# updates of 0.01. Summed over 30 steps this is 1.2e-6.
# A factor in single precision has a relative error of 6e-8; in 24 updates of 0.01, that is 1.5e-8.
TOLERANCES = {"fused Adam with amsgrad": 5e-6, "ASGD": 1e-7, "RAdam": 1e-7}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str, graphs: list[Recording]) -> None:
    check_as_eager(tolerance=TOLERANCES.get(name, TOLERANCE), optimizer=OPTIMIZERS[name])
    assert len(graphs) == 1
    # A graph without the optimizer returns the gradients too.
    assert (graphs[0].results > 1) == (name in NOT_RECORDABLE)


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize("name", ["ASGD", "Adam", "SGD with momentum", "fused Adam with amsgrad"])
def test_compiled_and_eager_fits_can_alternate(name: str) -> None:
    alternating, eager = estimator(), estimator()
    for compile in (True, False, True):
        fitted(alternating, epochs=3, compile=compile, optimizer=OPTIMIZERS[name])
        fitted(eager, epochs=3, compile=False, optimizer=OPTIMIZERS[name])
    assert_equal(alternating, eager, TOLERANCES.get(name, TOLERANCE))
