"""The compiled step: recorded and compiled once per shape of a minibatch, then run without Python's share of the work."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from amortvi.compile import (
    CompiledFunction,
    RecordableOptimizer,
    is_recordable,
    needs_closure,
    optimizer_options,
    optimizer_tensors,
)
from amortvi.data import Minibatch
from amortvi.errors import CaptureError
from amortvi.training.steps.eager import EagerStep
from amortvi.training.steps.step import LateNonFiniteError
from amortvi.training.steps.totals import Totals
from amortvi.training.steps.update import Estimation, Update, memory_of

__all__ = ["CompiledEstimation", "CompiledStep"]

_STEPS_UNSEEN = 1000
"""Steps after which the numbers are looked at within an epoch. To look takes a third of the time of a small step, and makes an
accelerator wait: after each thousandth step that is nothing, and a fit that has failed does not go on for long."""

_CHANGES_OF_OPTIONS = 1
"""How often options of the optimizer may change and the graph be made anew. Once may be a user who has set them; twice is taken
for a schedule, which would have every epoch compile."""


class CompiledStep:
    """One optimizer step on one minibatch, gathering included.

    Objective, gradient, clipping and the optimizer are one graph where the optimizer is one of `torch.optim` whose step is a
    fixed list of tensor operations; of any other optimizer only the step stays outside. Numbers that are not finite
    are found at the end of the epoch, so that no step has to wait for them.

    Args:
        update: what to compute.

    Raises:
        CaptureError: the optimizer asks for the loss itself.
    """

    def __init__(self, update: Update) -> None:
        if needs_closure(update.optimizer):
            raise CaptureError(
                f"{type(update.optimizer).__name__} asks for the loss as often as its line search needs, which a recorded "
                f"step cannot answer: fit with compile=False, or take another optimizer."
            )
        self.update = update
        self.first = EagerStep(update)
        self._optimizer = RecordableOptimizer(update.optimizer) if is_recordable(update.optimizer) else None
        self.function = CompiledFunction(self._recorded)
        self._present: list[bool] = []
        self._options: Hashable = None
        self._changes = 0
        self._has_state = False
        self._unseen = 0

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""
        return self.update.totals

    def begin(self) -> None:
        """Look whether what was compiled still holds, and take over the learning rates."""
        if self._optimizer is not None:
            self._optimizer.count_in_double()
            self._count_changes_of_options()
        if not self.function.keep_for(self._fingerprint()):
            parameters = {p for p in self.update.parameters if not self.update.optimizer.state.get(p)}
            self._has_state = self._optimizer is None or not parameters
        if self._optimizer is not None:
            self._optimizer.write_rates()

    def _count_changes_of_options(self) -> None:
        """Leave the optimizer out of the graph if a schedule changes more of it than the learning rate."""
        current = optimizer_options(self.update.optimizer)
        self._changes += self._options is not None and current != self._options
        self._options = current
        if self._changes > _CHANGES_OF_OPTIONS:
            self._optimizer = None

    def _fingerprint(self) -> Hashable:
        held = None if self._optimizer is None else (memory_of(optimizer_tensors(self.update.optimizer)), self._options)
        return self.update.fingerprint(), held

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Whether the step is compiled for the shape of ``minibatch``."""
        return self._has_state and self.function.is_compiled_for(minibatch)

    def __call__(self, minibatch: Minibatch) -> None:
        """Update the parameters.

        Raises:
            CaptureError: the step cannot be recorded or compiled; nothing was changed.
            LateNonFiniteError: some loss or parameter is not finite.
        """
        if not self._has_state:
            # Optimizers make their state at their first step, which so is another step than those that follow.
            self.first(minibatch)
            self.begin()
            self._has_state = True
            return
        gradients = iter(self.function(minibatch))
        if self._optimizer is None:
            self.update.apply([next(gradients) if present else None for present in self._present])
        self._unseen += 1
        if self._unseen >= _STEPS_UNSEEN:
            self.end()

    def end(self) -> None:
        """Look at what the steps have summed and at the parameters.

        Raises:
            LateNonFiniteError: some of it is not finite.
        """
        self._unseen = 0
        sums = torch.stack([tensor.detach().sum().float() for tensor in (self.totals.sums, *self.update.parameters)])
        if not math.isfinite(float(sums.sum())):
            raise LateNonFiniteError("the loss or a parameter is not finite")

    def _recorded(self, minibatch: Minibatch) -> Sequence[Tensor]:
        """The whole update or, where the optimizer stays outside, the gradients that there are."""
        gradients = self.update.differentiate(minibatch.gather()).gradients
        if self._optimizer is None:
            self._present = [gradient is not None for gradient in gradients]
            return [gradient for gradient in gradients if gradient is not None]
        # Clipping stays outside of recording(), where torch takes itself to be compiling: that is for optimizers alone.
        self.update.attach(gradients)
        with self._optimizer.recording():
            self.update.step()
        return []


class CompiledEstimation:
    """The objective on a minibatch, compiled.

    Args:
        estimation: what to compute.
    """

    def __init__(self, estimation: Estimation) -> None:
        self.estimation = estimation
        self.function = CompiledFunction(self._recorded)

    @property
    def totals(self) -> Totals:
        """The sums of the pass so far."""
        return self.estimation.totals

    def begin(self) -> None:
        """Look whether what was compiled still holds."""
        self.function.keep_for(self.estimation.fingerprint())

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Whether the estimate is compiled for the shape of ``minibatch``."""
        return self.function.is_compiled_for(minibatch)

    def __call__(self, minibatch: Minibatch) -> None:
        """Estimate and count in.

        Raises:
            CaptureError: the objective cannot be recorded or compiled.
        """
        self.function(minibatch)

    def end(self) -> None:
        """Nothing to finish: an estimate changes no parameters."""

    def _recorded(self, minibatch: Minibatch) -> Sequence[Tensor]:
        self.estimation.accumulate(minibatch.gather())
        return []
