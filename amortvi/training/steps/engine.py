"""Which step a fit runs, and what it compiled that the next fit can reuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from amortvi.compile import CompileChoice
from amortvi.training.steps.auto import AutoStep, Budget
from amortvi.training.steps.step import CompilingStep, Step
from amortvi.training.steps.update import Estimation

__all__ = ["Engine"]

Computation = TypeVar("Computation", bound=Estimation)


class Engine(Generic[Computation]):
    """Chooses the steps of one kind of computation, and keeps what was compiled while the computation stays the same.

    Args:
        eager: constructs the eager step of a computation.
        compiled: constructs the compiled one.
    """

    def __init__(self, eager: Callable[[Computation], Step], compiled: Callable[[Computation], CompilingStep]) -> None:
        self._make_eager = eager
        self._make_compiled = compiled
        self._computation: Computation | None = None
        self._compiled: CompilingStep | None = None

    def steps(
        self, computation: Computation, choice: CompileChoice, budget: Budget, steps_per_epoch: int | None
    ) -> tuple[Step, Step]:
        """Return the step to run, and the eager one, which is the reference.

        Args:
            computation: what a step computes.
            choice: whether to compile.
            budget: the epochs to come.
            steps_per_epoch: the number of steps per epoch, or ``None`` if unknown.

        Raises:
            CaptureError: the step is to be compiled and cannot be.
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
        # Compiled steps write to the parameters of the original, and cannot be pickled: a copy starts without them.
        return Engine, (self._make_eager, self._make_compiled)
