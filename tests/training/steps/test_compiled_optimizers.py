"""Every optimizer takes the same steps in a recorded graph as eagerly, also if its options or the kind of step change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from amortvi.compile.recording import Recording
from amortvi.errors import CaptureError
from tests.training.steps.fits import assert_equal, estimator, fitted, learned


class Counting(torch.optim.SGD):
    """Counts its steps in Python, so it cannot be recorded."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 0.01 / self.steps
        return super().step(closure)


def with_hook(parameters: Any, lr: float) -> torch.optim.Optimizer:
    made = torch.optim.Adam(parameters, lr=lr)
    made.register_step_post_hook(lambda optimizer, args, kwargs: optimizer.param_groups[0].update(lr=0.002))
    return made


def two_groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    parameters = list(parameters)
    return torch.optim.Adam([{"params": parameters[:2], "lr": lr / 10}, {"params": parameters[2:]}], lr=lr)


def decayed(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters, lr: kind(parameters, lr=lr, weight_decay=0.1)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **{
        kind.__name__: decayed(kind)
        for kind in (
            torch.optim.ASGD,
            torch.optim.Adadelta,
            torch.optim.Adafactor,
            torch.optim.Adagrad,
            torch.optim.Adam,
            torch.optim.AdamW,
            torch.optim.Adamax,
            torch.optim.NAdam,
            torch.optim.RAdam,
            torch.optim.RMSprop,
        )
    },
    "Rprop": torch.optim.Rprop,
    "SGD": torch.optim.SGD,
    "SGD with momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=0.1),
    "fused Adam with amsgrad": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True, amsgrad=True),
    "AdamW with foreach": lambda p, lr: torch.optim.AdamW(p, lr=lr, foreach=True),
    "two groups": two_groups,
    "counts in Python": Counting,
    "with a hook": with_hook,
}
NOT_RECORDABLE = {"Adafactor", "counts in Python", "with a hook"}

# In double precision rounding errors are 1e-16. An adaptive optimizer divides a gradient by its size, so that the relative error
# of an update exceeds 1e-7 only where a gradient is nine orders of magnitude smaller than its terms.
TOLERANCE = 1e-9
# The fused kernel counts in single precision: 1 - beta ** step has a relative error of 6e-8 / (0.001 step), half of which enters
# updates of 0.01. Summed over 30 steps this is 1.2e-6.
TOLERANCES = {"fused Adam with amsgrad": 5e-6}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_recorded_optimizer_takes_the_eager_steps(name: str, recordings: list[Recording]) -> None:
    optimizer = OPTIMIZERS[name]
    compiled, eager = fitted(optimizer=optimizer), fitted(optimizer=optimizer, compile=False)
    assert_equal(compiled, eager, TOLERANCES.get(name, TOLERANCE))
    assert len(recordings) == 1
    # A graph without the optimizer returns the gradients.
    assert (recordings[0].results > 0) == (name in NOT_RECORDABLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_optimizer_takes_the_eager_steps(name: str) -> None:
    options = {"optimizer": OPTIMIZERS[name], "epochs": 20}
    assert_equal(fitted(**options), fitted(compile=False, **options), TOLERANCES.get(name, TOLERANCE))


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize("name", ["ASGD", "Adam", "SGD with momentum", "fused Adam with amsgrad"])
def test_compiled_and_eager_fits_can_alternate(name: str) -> None:
    alternating, eager = estimator(), estimator()
    for compile in (True, False, True):
        fitted(alternating, epochs=3, compile=compile, optimizer=OPTIMIZERS[name])
        fitted(eager, epochs=3, compile=False, optimizer=OPTIMIZERS[name])
    assert_equal(alternating, eager, TOLERANCES.get(name, TOLERANCE))


def one_cycle(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=20)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_schedule_that_changes_betas_leaves_the_optimizer_outside_the_graph(
    clip: float | None, recordings: list[Recording]
) -> None:
    options = {"lr_schedule": one_cycle, "gradient_clip": clip}
    compiled = fitted(**options)
    # The first recording contains the optimizer. When its betas change again, the second recording contains only the gradient.
    assert [recording.results > 0 for recording in recordings] == [False, True]
    assert_equal(compiled, fitted(compile=False, **options), TOLERANCE)


def test_new_options_of_the_optimizer_lead_to_a_new_recording(recordings: list[Recording]) -> None:
    options: dict[str, Any] = {"epochs": 3, "optimizer": OPTIMIZERS["SGD with momentum"]}
    compiled, eager = fitted(**options), fitted(compile=False, **options)
    for vi in (compiled, eager):
        vi._trainer._optimizer.param_groups[0]["momentum"] = 0.5
    fitted(compiled, **options)
    fitted(eager, compile=False, **options)
    assert len(recordings) == 2
    assert_equal(compiled, eager, TOLERANCE)


def test_a_line_search_is_refused_before_anything_changes() -> None:
    vi = fitted(epochs=1, compile=False)
    before = learned(vi)
    with pytest.raises(CaptureError, match=r"LBFGS evaluates the loss itself.*compile=False"):
        fitted(vi, optimizer=torch.optim.LBFGS)
    assert all(torch.equal(value, before[name]) for name, value in learned(vi).items())
