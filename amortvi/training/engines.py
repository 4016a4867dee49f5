"""Which engine runs the steps of a fit, and what of it serves the next fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from amortvi.engine import AutoStep, Budget, CompileChoice, CompilingStep, Estimation, Step

__all__ = ["Engine"]

Computation = TypeVar("Computation", bound=Estimation)


class Engine(Generic[Computation]):
    """Runs one kind of computation, and keeps what it compiled for as long as the computation is the same.

    Args:
        eager: makes the eager step of a computation.
        compiled: makes the compiled one.
    """

    def __init__(self, eager: Callable[[Computation], Step], compiled: Callable[[Computation], CompilingStep]) -> None:
        self._make_eager = eager
        self._make_compiled = compiled
        self._computation: Computation | None = None
        self._compiled: CompilingStep | None = None

    def steps(
        self, computation: Computation, choice: CompileChoice, budget: Budget, an_epoch: int | None
    ) -> tuple[Step, Step]:
        """Return the step to run, and the eager one, which is the reference.

        Args:
            computation: what a step computes.
            choice: whether to compile.
            budget: what the fit has before it.
            an_epoch: steps an epoch, or ``None`` if unknown.

        Raises:
            CaptureError: it is to be compiled and cannot be.
        """
        if self._computation is None or not computation.is_like(self._computation):
            self._computation, self._compiled = computation, None
        self._computation.state = computation.state
        eager = self._make_eager(self._computation)
        if choice is False:
            return eager, eager
        if choice is True:
            return self._compile(), eager
        return AutoStep(eager, self._compile, self._compiled, budget, an_epoch), eager

    def _compile(self) -> CompilingStep:
        if self._compiled is None:
            assert self._computation is not None
            self._compiled = self._make_compiled(self._computation)
        return self._compiled

    def __reduce__(self) -> tuple[Any, ...]:
        # What was compiled writes to the parameters of the original, and cannot be written to a file.
        return Engine, (self._make_eager, self._make_compiled)
