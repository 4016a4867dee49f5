"""Audits are due after 1, 2, 4, ... steps, find every kind of difference, and leave the step to the reference."""

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amortvi.compile.audit import AUDIT_EVERY, COMPILED, INTERPRETED, Audit, check_verify
from amortvi.errors import OptionError

CPU = torch.device("cpu")


class Problem:
    """A step that changes a parameter and a buffer, draws a number, and reads a tensor that it does not change."""

    def __init__(self) -> None:
        self.parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.buffer = torch.zeros(3)
        self.fixed = torch.full((3,), 2.0)
        self.argument = torch.zeros(2)
        self.audit = Audit([self.parameter], [self.buffer], [self.fixed], CPU)

    def step(
        self,
        *,
        loss: float = 0.0,
        update: float = 0.1,
        buffer: float = 1.0,
        argument: float = 1.0,
        extra: Callable[[], Any] = lambda: None,
    ) -> Callable[[], Sequence[Tensor]]:
        def take() -> Sequence[Tensor]:
            found = self.parameter.detach().sum() + loss
            with torch.no_grad():
                self.parameter.sub_(update * self.fixed)
                self.buffer.add_(buffer)
                self.argument.add_(argument)
                torch.rand(2)
            extra()
            return [found]

        return take

    def compare(
        self, candidate: Callable[[], Any], reference: Callable[[], Any], tolerance: Any = INTERPRETED
    ) -> str | None:
        return self.audit.compare([(candidate, tolerance)], reference, [self.argument])


def test_audits_are_due_at_powers_of_two_and_then_regularly() -> None:
    audit, due = Audit([], [], [], CPU), []
    for step in range(1, 3 * AUDIT_EVERY + 1):
        if audit.is_due:
            due.append(step)
        audit.steps += 1
    assert due == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *(AUDIT_EVERY * factor for factor in (1, 2, 3))]


def test_the_step_is_taken_once_by_the_reference() -> None:
    problem, alone = Problem(), Problem()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        # The candidate's update differs by less than the tolerance.
        assert problem.compare(problem.step(update=0.1 * (1 + 1e-12)), problem.step()) is None
        state = torch.get_rng_state()
        torch.manual_seed(1)
        alone.step()()
        assert torch.equal(torch.get_rng_state(), state)
    assert problem.audit.steps == 1
    for name in ("parameter", "buffer", "argument"):
        assert torch.equal(getattr(problem, name), getattr(alone, name))


NAN = float("nan")
DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"loss": 1e-6}, "its loss is 3.000001, and should be 3"),
    "loss that is NaN": ({"loss": NAN}, "its loss is nan, and should be 3"),
    "parameters": ({"update": 0.15}, "its parameters change differently, by 0.5 of the correct change"),
    "parameters that are NaN": ({"update": NAN}, "its parameters change differently"),
    "buffers": ({"buffer": 1.5}, "its buffers or the state of the optimizer change differently"),
    "buffers that are NaN": ({"buffer": NAN}, "its buffers or the state of the optimizer change differently"),
    "arguments": ({"argument": -1.0}, "its buffers or the state of the optimizer change differently"),
    "draws": ({"extra": lambda: torch.rand(1)}, "it does not draw the same random numbers"),
}


@pytest.mark.parametrize("tolerance", [INTERPRETED, COMPILED], ids=["interpreted", "compiled"])
@pytest.mark.parametrize("kind", DIFFERENT)
def test_differences_are_found(kind: str, tolerance: Any) -> None:
    changes, message = DIFFERENT[kind]
    problem, expected = Problem(), Problem()
    assert str(problem.compare(problem.step(**changes), problem.step(), tolerance)).startswith(message)
    expected.step()()
    assert torch.equal(problem.parameter, expected.parameter)
    assert torch.equal(problem.buffer, expected.buffer)


def test_every_candidate_is_compared() -> None:
    problem = Problem()
    candidates = [(problem.step(), INTERPRETED), (problem.step(update=0.2), COMPILED)]
    assert "parameters" in str(problem.audit.compare(candidates, problem.step()))


def test_rounding_errors_are_none() -> None:
    """Relative to the tensors, not to a step that changes almost nothing."""
    problem = Problem()
    small = {"update": 1e-15, "buffer": 0.0, "argument": 0.0}
    assert problem.compare(problem.step(**{**small, "update": 2e-15}), problem.step(**small)) is None
    assert problem.compare(problem.step(loss=1e-15), problem.step()) is None


def test_numbers_that_are_not_finite_are_equal_in_the_same_places() -> None:
    problem = Problem()
    assert problem.compare(problem.step(update=NAN), problem.step(update=NAN)) is None
    assert torch.isnan(problem.parameter).all()
    assert problem.compare(problem.step(buffer=float("inf")), problem.step(buffer=float("inf"))) is None


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda problem: random.random(), "generator of Python or NumPy"),
        (lambda problem: np.random.rand(), "generator of Python or NumPy"),  # noqa: NPY002
        (lambda problem: problem.fixed.mul_(1), "changes a tensor in place that it did not change"),
    ],
    ids=["Python", "NumPy", "a write"],
)
def test_what_only_the_reference_does_is_found(extra: Callable[[Problem], Any], reason: str) -> None:
    problem = Problem()
    assert reason in str(problem.compare(problem.step(), problem.step(extra=lambda: extra(problem))))


def test_another_thread_may_draw_from_the_generator_of_python() -> None:
    problem, expected, calls, ends = Problem(), Problem(), itertools.count(), threading.Event()
    other = threading.Thread(target=ends.wait)
    other.start()
    try:
        # What draws once only is not the step.
        once = problem.step(extra=lambda: next(calls) or random.random())
        assert problem.compare(problem.step(), once) is None
    finally:
        ends.set()
        other.join()
    expected.step()()
    assert next(calls) == 2
    assert torch.equal(problem.parameter, expected.parameter)
    assert torch.equal(problem.buffer, expected.buffer)


@pytest.mark.parametrize("fails", ["candidate", "reference"])
def test_an_exception_leaves_the_state_before_the_step(fails: str) -> None:
    """A reference raises before it changes anything."""

    def fail() -> Any:
        raise KeyboardInterrupt

    problem, unchanged = Problem(), Problem()
    state = torch.get_rng_state()
    candidate = problem.step(extra=fail) if fails == "candidate" else problem.step()
    with pytest.raises(KeyboardInterrupt):
        problem.compare(candidate, fail)
    for name in ("parameter", "buffer", "argument"):
        assert torch.equal(getattr(problem, name), getattr(unchanged, name))
    assert torch.equal(torch.get_rng_state(), state)
    assert problem.audit.steps == 0


@pytest.mark.parametrize("value", [True, None, "Warn", "ignore"])
def test_another_choice_of_verify_is_refused(value: object) -> None:
    assert [check_verify(choice) for choice in ("warn", "error")] == ["warn", "error"]
    with pytest.raises(OptionError, match='verify must be "warn" or "error"; got'):
        check_verify(value)
