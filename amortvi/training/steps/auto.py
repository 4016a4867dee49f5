"""The choice between eager and compiled steps: compiling takes seconds once, and saves milliseconds per step."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from amortvi.compile import CompileChoice
from amortvi.data import Minibatch
from amortvi.errors import AmortviWarning, CaptureError
from amortvi.training.steps.step import CompilingStep, Step, Totals
from amortvi.training.steps.update import Estimation

__all__ = ["AutoStep", "Budget", "Engine"]

PAYS_FROM = 10_000
"""The number of steps of one shape from which compiling saves time. Both the time it takes and the time it saves per step grow
with the number of operations, so their ratio depends little on the model: about three thousand steps on an idle machine, and up
to ten thousand on a busy one. A rule that counts steps instead of measuring times makes fits reproducible."""

_TIMED_STEPS = 8
"""The number of eager and of compiled steps that are timed before their medians are compared."""

_TOLERATED_SLOWDOWN = 1.1
"""The largest accepted ratio of the times of a compiled and an eager step; smaller ones may be noise on a shared machine."""


@dataclass
class Budget:
    """The epochs of a fit, and whether compiling has failed, which is reported once."""

    epochs: int
    gave_up: bool = False

    def give_up(self, error: CaptureError) -> None:
        """Issue one warning that this fit runs eagerly, and why."""
        if not self.gave_up:
            self.gave_up = True
            warnings.warn(f"this fit runs without compiling: {error}", AmortviWarning, stacklevel=2)


class AutoStep:
    """Runs minibatches eagerly, or compiled if the fit has enough minibatches of the same shape.

    A shape returns to eager steps if its compiled steps are more than a tenth slower.

    Args:
        eager: the eager step.
        make_compiled: constructs the compiled step, or returns the existing one.
        compiled: the compiled step of an earlier fit, or ``None``.
        budget: the epochs of the fit.
        steps_per_epoch: the number of minibatches per epoch, or ``None`` if unknown.
    """

    def __init__(
        self,
        eager: Step,
        make_compiled: Callable[[], CompilingStep],
        compiled: CompilingStep | None,
        budget: Budget,
        steps_per_epoch: int | None,
    ) -> None:
        self.eager = eager
        self._make = make_compiled
        self._compiled = compiled
        self._budget = budget
        self._steps_per_epoch = steps_per_epoch
        self._shapes: dict[int, _Shape] = {}

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""
        return self.eager.totals

    def begin(self) -> None:
        """Prepare for an epoch."""
        if self._compiled is not None:
            self._compiled.begin()

    def end(self) -> None:
        """Finish an epoch."""
        if self._compiled is not None:
            self._compiled.end()

    def __call__(self, minibatch: Minibatch) -> None:
        """Process one minibatch."""
        shape = self._shapes.get(minibatch.size) or self._new_shape(minibatch)
        if not shape.is_settled:
            self._try(shape, minibatch)
        elif shape.compiles and self._compiled is not None:
            self._compiled(minibatch)
        else:
            self.eager(minibatch)

    def _new_shape(self, minibatch: Minibatch) -> _Shape:
        known = self._compiled is not None and self._compiled.is_compiled_for(minibatch)
        shape = _Shape(compiles=known or self._pays(minibatch.size), is_settled=known)
        self._shapes[minibatch.size] = shape
        return shape

    def _pays(self, size: int) -> bool:
        # The last minibatch of an epoch may be smaller than the others, and occurs once.
        full = next(iter(self._shapes), size)
        per_epoch = 1 if size != full else max(1, (self._steps_per_epoch or 1) - 1)
        return per_epoch * self._budget.epochs >= PAYS_FROM

    def _try(self, shape: _Shape, minibatch: Minibatch) -> None:
        compiles = shape.eager_is_timed and not self._budget.gave_up
        start = _now(self.totals)
        if compiles:
            try:
                self._ready()(minibatch)
            except CaptureError as error:
                self._budget.give_up(error)
                compiles = False
        if not compiles:
            self.eager(minibatch)
        shape.add_time(_now(self.totals) - start, compiled=compiles)
        if self._budget.gave_up:
            shape.compiles, shape.is_settled = False, True

    def _ready(self) -> CompilingStep:
        if self._compiled is None:
            self._compiled = self._make()
            self._compiled.begin()
        return self._compiled


class _Shape:
    """The choice for the minibatches of one size, and the times of its steps."""

    def __init__(self, *, compiles: bool, is_settled: bool) -> None:
        self.compiles = compiles
        self.is_settled = is_settled or not compiles
        self._eager: list[float] = []
        self._compiled: list[float] = []

    @property
    def eager_is_timed(self) -> bool:
        return len(self._eager) >= _TIMED_STEPS

    def add_time(self, seconds: float, *, compiled: bool) -> None:
        (self._compiled if compiled else self._eager).append(seconds)
        # The first compiled step includes compilation.
        if len(self._compiled) > _TIMED_STEPS:
            slowdown = statistics.median(self._compiled[1:]) / statistics.median(self._eager)
            self.compiles = slowdown <= _TOLERATED_SLOWDOWN
            self.is_settled = True


def _now(totals: Totals) -> float:
    if totals.sums.is_cuda:
        torch.cuda.synchronize(totals.sums.device)
    return time.perf_counter()


Computation = TypeVar("Computation", bound=Estimation)


class Engine(Generic[Computation]):
    """Chooses the steps for one kind of computation, and keeps compiled steps as long as the computation stays the same.

    Args:
        eager: constructs the eager step for a computation.
        compiled: constructs the compiled step.
    """

    def __init__(self, eager: Callable[[Computation], Step], compiled: Callable[[Computation], CompilingStep]) -> None:
        self._make_eager = eager
        self._make_compiled = compiled
        self._computation: Computation | None = None
        self._compiled: CompilingStep | None = None

    def steps(
        self, computation: Computation, choice: CompileChoice, budget: Budget, steps_per_epoch: int | None
    ) -> tuple[Step, Step]:
        """Return the step to run, and the eager step as the reference.

        Raises:
            CaptureError: ``choice`` is ``True``, and the optimizer evaluates the loss itself.
        """
        if self._computation is None or not computation.is_equivalent(self._computation):
            self._computation, self._compiled = computation, None
        self._computation.modules = computation.modules
        eager = self._make_eager(self._computation)
        if choice is False:
            return eager, eager
        if choice is True:
            return self._compile(), eager
        return AutoStep(eager, self._compile, self._compiled, budget, steps_per_epoch), eager

    def _compile(self) -> CompilingStep:
        if self._compiled is None:
            assert self._computation is not None
            self._compiled = self._make_compiled(self._computation)
        return self._compiled

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled steps write to the parameters of the original and cannot be pickled, so a copy starts without them.
        return Engine, (self._make_eager, self._make_compiled)
