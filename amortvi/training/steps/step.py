"""The contract of what runs over the minibatches of an epoch, eager or compiled."""

from __future__ import annotations

from typing import Protocol

from amortvi.data import Minibatch
from amortvi.errors import NonFiniteError
from amortvi.training.steps.totals import Totals

__all__ = ["CompilingStep", "LateNonFiniteError", "Step"]


class LateNonFiniteError(NonFiniteError):
    """A number is not finite, detected some steps after it was computed; the eager step can locate it."""


class Step(Protocol):
    """Processes one minibatch after the other and accumulates averages: a training step, or an estimate alone."""

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""

    def begin(self) -> None:
        """Prepare for an epoch: modes, learning rates and parameters may have changed since the last one."""

    def __call__(self, minibatch: Minibatch) -> None:
        """Process one minibatch.

        Raises:
            NonFiniteError: the loss or a gradient is not finite.
        """

    def end(self) -> None:
        """Finish an epoch.

        Raises:
            LateNonFiniteError: a loss or a parameter is not finite.
        """


class CompilingStep(Step, Protocol):
    """A step that compiles itself for each shape of a minibatch."""

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Whether it is compiled for the shape of ``minibatch``."""
