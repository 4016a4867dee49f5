"""The compiled step: recorded and compiled once per shape of a minibatch, then run without Python overhead."""

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
from amortvi.training.steps.step import LateNonFiniteError, Totals
from amortvi.training.steps.update import Estimation, Update, memory_of

__all__ = ["CompiledEstimation", "CompiledStep"]

_STEPS_BETWEEN_CHECKS = 1000
"""Steps between checks for non-finite numbers within an epoch. A check takes a third of the time of a small step and makes the
CPU wait for an accelerator. Once per thousand steps the cost is negligible, and a failed fit still ends soon."""

_MAX_OPTION_CHANGES = 1
"""How often the options of the optimizer may change before it is left out of the graph. The user may change them once; a second
change is taken for a schedule, which would otherwise lead to a compilation in every epoch."""


class CompiledStep:
    """One optimizer step on one minibatch, including the selection of its observations.

    Objective, gradient, clipping and optimizer are one graph if the optimizer can be recorded. Otherwise its step stays outside
    the graph. Non-finite numbers are detected at the end of the epoch, so that no step waits for the check.

    Args:
        update: what to compute.

    Raises:
        CaptureError: the optimizer evaluates the loss itself.
    """

    def __init__(self, update: Update) -> None:
        if needs_closure(update.optimizer):
            raise CaptureError(
                f"{type(update.optimizer).__name__} evaluates the loss itself, as often as its line search needs, which a "
                f"recorded step cannot do: use compile=False or another optimizer."
            )
        self.update = update
        self.first = EagerStep(update)
        self._optimizer = RecordableOptimizer(update.optimizer) if is_recordable(update.optimizer) else None
        self.function = CompiledFunction(self._recorded)
        self._has_gradient: list[bool] = []
        self._options: Hashable = None
        self._option_changes = 0
        self._has_state = False
        self._unchecked = 0

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""
        return self.update.totals

    @property
    def records_optimizer(self) -> bool:
        """Whether the optimizer's step is part of the graph."""
        return self._optimizer is not None

    def begin(self) -> None:
        """Discard compiled code that is no longer valid, and write the current learning rates."""
        if self._optimizer is not None:
            self._optimizer.count_in_double()
            self._count_option_changes()
        if not self.function.keep_for(self._fingerprint()):
            state = self.update.optimizer.state
            self._has_state = self._optimizer is None or all(state.get(p) for p in self.update.parameters)
        if self._optimizer is not None:
            self._optimizer.write_rates()

    def _count_option_changes(self) -> None:
        """Leave the optimizer out of the graph if a schedule changes more than the learning rate."""
        current = optimizer_options(self.update.optimizer)
        self._option_changes += self._options is not None and current != self._options
        self._options = current
        if self._option_changes > _MAX_OPTION_CHANGES:
            self._optimizer = None

    def _fingerprint(self) -> Hashable:
        if self._optimizer is None:
            return self.update.fingerprint()
        return self.update.fingerprint(), memory_of(optimizer_tensors(self.update.optimizer)), self._options

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Return whether the step is compiled for the shape of ``minibatch``."""
        return self._has_state and self.function.is_compiled_for(minibatch)

    def __call__(self, minibatch: Minibatch) -> None:
        """Update the parameters.

        Raises:
            CaptureError: the step cannot be recorded or compiled; nothing has changed.
            LateNonFiniteError: a loss or a parameter is not finite.
        """
        if not self._has_state:
            # An optimizer creates its state in the first step, which therefore differs from all later steps.
            self.first(minibatch)
            self.begin()
            self._has_state = True
            return
        gradients = iter(self.function(minibatch))
        if self._optimizer is None:
            self.update.apply([next(gradients) if present else None for present in self._has_gradient])
        self._unchecked += 1
        if self._unchecked >= _STEPS_BETWEEN_CHECKS:
            self.end()

    def end(self) -> None:
        """Check the sums of the epoch and the parameters.

        Raises:
            LateNonFiniteError: one of them is not finite.
        """
        self._unchecked = 0
        sums = torch.stack([tensor.detach().sum().float() for tensor in (self.totals.sums, *self.update.parameters)])
        if not math.isfinite(float(sums.sum())):
            raise LateNonFiniteError("the loss or a parameter is not finite")

    def _recorded(self, minibatch: Minibatch) -> Sequence[Tensor]:
        """Perform the whole update, or return the gradients that exist if the optimizer stays outside the graph."""
        gradients = self.update.differentiate(minibatch.gather()).gradients
        if self._optimizer is None:
            self._has_gradient = [gradient is not None for gradient in gradients]
            return [gradient for gradient in gradients if gradient is not None]
        # Clipping stays outside recording(), which sets a flag for optimizers only.
        self.update.attach(gradients)
        with self._optimizer.recording():
            self.update.step()
        return []


class CompiledEstimation:
    """The compiled estimate of the objective on one minibatch."""

    def __init__(self, estimation: Estimation) -> None:
        self.estimation = estimation
        self.function = CompiledFunction(self._recorded)

    @property
    def totals(self) -> Totals:
        """The sums of the pass so far."""
        return self.estimation.totals

    def begin(self) -> None:
        """Discard compiled code that is no longer valid."""
        self.function.keep_for(self.estimation.fingerprint())

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Return whether the estimate is compiled for the shape of ``minibatch``."""
        return self.function.is_compiled_for(minibatch)

    def __call__(self, minibatch: Minibatch) -> None:
        """Estimate the objective and add it to the totals; raise `CaptureError` if it cannot be compiled."""
        self.function(minibatch)

    def end(self) -> None:
        """Do nothing: the estimate changes no parameters."""

    def _recorded(self, minibatch: Minibatch) -> Sequence[Tensor]:
        self.estimation.accumulate(minibatch.gather())
        return []
