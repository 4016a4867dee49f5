"""The contract of what runs over the minibatches of an epoch, whatever engine it has."""

from __future__ import annotations

from typing import Protocol

from amortvi.engine.totals import Totals
from amortvi.errors import NonFiniteError
from amortvi.observations import Minibatch

__all__ = ["CompilingStep", "FoundLateError", "Step"]


class FoundLateError(NonFiniteError):
    """Some number is not finite, and was found after the step that made it; the eager step can tell which."""


class Step(Protocol):
    """Takes one minibatch after the other and sums up what it saw: a training step, or an estimate alone."""

    @property
    def totals(self) -> Totals:
        """What the epoch has summed so far."""

    def begin(self) -> None:
        """Get ready for an epoch: since the last one modes, learning rates and parameters may have been changed."""

    def __call__(self, minibatch: Minibatch) -> None:
        """Take one minibatch.

        Raises:
            NonFiniteError: the loss or a gradient is not finite.
        """

    def end(self) -> None:
        """Finish an epoch.

        Raises:
            FoundLateError: a loss or a parameter is not finite.
        """


class CompilingStep(Step, Protocol):
    """A step that compiles itself for each shape of a minibatch."""

    def knows(self, minibatch: Minibatch) -> bool:
        """Whether it is compiled for the shape of ``minibatch``."""
