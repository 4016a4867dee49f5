"""The choice between eager and compiled: compiling costs seconds once, and saves milliseconds a step."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeGuard

import torch

from amortvi.engine.step import CompilingStep, Step
from amortvi.engine.totals import Totals
from amortvi.errors import AmortviWarning, CaptureError
from amortvi.observations import Minibatch

__all__ = ["AutoStep", "Budget", "CompileChoice", "is_compile_choice"]

CompileChoice: TypeAlias = bool | Literal["auto"]
"""Compile every step, none, or where there are enough steps to come for it to pay."""

PAYS_FROM = 10_000
"""Steps of one shape from which compiling is worth its time. Both that time and what a step saves grow with the number of
operations, so their ratio depends little on the model: about three thousand steps where the machine is idle, and up to ten
where it is busy. A rule that counts steps, and measures nothing, makes the same choice each time, and so the same numbers."""

_WATCHED = 8
"""Steps of each kind that are timed before the two are compared by their medians, which one slow step in eight does not move."""

_TOLERATED = 1.1
"""How many times as long as eager a compiled step may take: less than a tenth is noise where other programs run."""


def is_compile_choice(value: object) -> TypeGuard[CompileChoice]:
    """Whether ``value`` says what to compile.

    Example:
        >>> [is_compile_choice(value) for value in ("auto", True, False, "always", 1)]
        [True, True, True, False, False]
    """
    return isinstance(value, bool) or (isinstance(value, str) and value == "auto")


@dataclass
class Budget:
    """What a fit has before it.

    Args:
        epochs: passes to come.
        given_up: whether compiling has failed, of which the user is told once.
    """

    epochs: int
    given_up: bool = False

    def give_up(self, error: CaptureError) -> None:
        """Say once that this fit runs eagerly, and why."""
        if not self.given_up:
            self.given_up = True
            warnings.warn(f"this fit runs without compiling: {error}", AmortviWarning, stacklevel=2)


class AutoStep:
    """Runs minibatches eagerly, or compiled where there are enough of their shape to come.

    A compiled shape that is slower than eager, by more than a tenth, goes back to eager.

    Args:
        eager: the reference.
        make_compiled: makes the compiled one, or returns the one that there is.
        compiled: the one that an earlier fit has left, or ``None``.
        budget: what the fit has before it.
        steps: minibatches an epoch, or ``None`` if unknown.
    """

    def __init__(
        self,
        eager: Step,
        make_compiled: Callable[[], CompilingStep],
        compiled: CompilingStep | None,
        budget: Budget,
        steps: int | None,
    ) -> None:
        self.eager = eager
        self._make = make_compiled
        self._compiled = compiled
        self._budget = budget
        self._steps = steps
        self._shapes: dict[int, _Shape] = {}

    @property
    def totals(self) -> Totals:
        """What the epoch has summed so far."""
        return self.eager.totals

    def begin(self) -> None:
        """Get ready for an epoch."""
        if self._compiled is not None:
            self._compiled.begin()

    def end(self) -> None:
        """Finish an epoch."""
        if self._compiled is not None:
            self._compiled.end()

    def __call__(self, minibatch: Minibatch) -> None:
        """Run one minibatch."""
        shape = self._shapes.get(minibatch.size) or self._meet(minibatch)
        if not shape.is_settled:
            self._try_out(shape, minibatch)
        elif shape.compiles and self._compiled is not None:
            self._compiled(minibatch)
        else:
            self.eager(minibatch)

    def _meet(self, minibatch: Minibatch) -> _Shape:
        known = self._compiled is not None and self._compiled.knows(minibatch)
        shape = _Shape(compiles=known or self._is_worth_it(minibatch.size), is_settled=known)
        self._shapes[minibatch.size] = shape
        return shape

    def _is_worth_it(self, size: int) -> bool:
        # The last minibatch of an epoch may be smaller than the others, and comes once.
        full = next(iter(self._shapes), size)
        an_epoch = 1 if size != full else max(1, (self._steps or 1) - 1)
        return an_epoch * self._budget.epochs >= PAYS_FROM

    def _try_out(self, shape: _Shape, minibatch: Minibatch) -> None:
        compiles = shape.eager_is_known and not self._budget.given_up
        start = _now(self.totals)
        if compiles:
            try:
                self._ready()(minibatch)
            except CaptureError as error:
                self._budget.give_up(error)
                compiles = False
        if not compiles:
            self.eager(minibatch)
        shape.note(_now(self.totals) - start, compiled=compiles)
        if self._budget.given_up:
            shape.compiles, shape.is_settled = False, True

    def _ready(self) -> CompilingStep:
        if self._compiled is None:
            self._compiled = self._make()
            self._compiled.begin()
        return self._compiled


class _Shape:
    """What is known of the minibatches of one size."""

    def __init__(self, *, compiles: bool, is_settled: bool) -> None:
        self.compiles = compiles
        self.is_settled = is_settled or not compiles
        self._eager: list[float] = []
        self._compiled: list[float] = []

    @property
    def eager_is_known(self) -> bool:
        return len(self._eager) >= _WATCHED

    def note(self, seconds: float, *, compiled: bool) -> None:
        (self._compiled if compiled else self._eager).append(seconds)
        # The first compiled step is the one that compiled.
        if len(self._compiled) > _WATCHED:
            self.compiles = statistics.median(self._compiled[1:]) <= _TOLERATED * statistics.median(self._eager)
            self.is_settled = True


def _now(totals: Totals) -> float:
    if totals.sums.is_cuda:
        torch.cuda.synchronize(totals.sums.device)
    return time.perf_counter()
