"""The phases of a fit: when off-diagonal parameters begin to learn, when the learning rate falls, and when the fit ends.

A fit trains at the full learning rate, at which its noise keeps it from the optimum, and then lets the rate fall to almost zero,
which removes that noise. If model and posterior are trained together, the posterior is diagonal at first: a decoder that is
trained with correlated posteriors from the start ends in a worse optimum, because a posterior that can adapt to any decoder gives
it no reason to disentangle its latents. The off-diagonal parameters begin to learn once the bound no longer rises fast.

With a given number of epochs, the phases are fractions of it. Without one, each phase ends when the learning curve shows that
continuing it gains little (Welandawe et al., 2022, whose rule compares iterates), or, at the latest, at that fraction of a
budget.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from amortvi.training.learning_curve import Gain, gain_from_doubling

__all__ = ["STATUSES", "Status", "Timetable"]

Status: TypeAlias = Literal["converged", "still rising", "budget", "interrupted", "stopped early"]
"""How a fit ended: see `STATUSES`."""

STATUSES: dict[Status, str] = {
    "converged": "the bound had leveled off before the learning rate fell",
    "still rising": "the bound was still rising when the epochs ended",
    "budget": "the epochs ended before it could be seen whether the bound had leveled off",
    "interrupted": "the fit was interrupted, or ended with an error",
    "stopped early": "the validation ELBO had not risen for the epochs of patience",
}

_UNLOCK_FROM, _UNLOCK_TO, _DECAY_FROM = 0.25, 0.5, 0.5
"""The phases as fractions of the epochs."""
_LOWEST_RATE = 0.01
"""The last learning rate, as a fraction of the first."""
_FAST = 0.05
"""The bound rises fast while doubling the epochs would gain this fraction of its rise so far."""
_TOLERANCE, _RELATIVE_TOLERANCE = 0.01, 1e-4
"""The bound has leveled off if doubling the epochs would gain less than this, in nats per observation or relative to it."""


class Timetable:
    """The phases of one fit. Times are epochs since its start; `epochs` is its length, as far as it is known.

    Args:
        epochs: the number of epochs, or the largest if the fit ends by itself.
        ends_by_itself: whether the fit ends when it has converged.
        may_fall: whether a bound that falls has leveled off. The validation ELBO of a fit that overfits falls; the training ELBO
            falls while the weight of the KL rises.
        locks: whether off-diagonal parameters wait.
        decays: whether the learning rate falls.
        fewest_epochs: a phase that ends by itself takes at least as many epochs.
    """

    def __init__(
        self,
        epochs: int,
        *,
        ends_by_itself: bool,
        locks: bool,
        decays: bool,
        fewest_epochs: int,
        may_fall: bool = False,
    ) -> None:
        self.epochs = epochs
        self._ends_by_itself = ends_by_itself
        self._may_fall = may_fall
        self._fewest = fewest_epochs
        self._unlock_from, self._unlock_to = (_UNLOCK_FROM * epochs, _UNLOCK_TO * epochs) if locks else (0.0, 0.0)
        self._decay_from = _DECAY_FROM * epochs if decays else epochs
        self._bounds: list[float] = []
        self._gain = Gain()

    def rate(self, time: float) -> float:
        """Return the learning rate as a fraction of the first."""
        if time <= self._decay_from:
            return 1.0
        return max(_LOWEST_RATE, (self.epochs - time) / (self.epochs - self._decay_from))

    def unlocked(self, time: float) -> float:
        """Return the learning rate of off-diagonal parameters as a fraction of their own."""
        if time >= self._unlock_to:
            return 1.0
        return max(0.0, (time - self._unlock_from) / (self._unlock_to - self._unlock_from))

    def record(self, bound: float) -> None:
        """Record the bound of one epoch, and end the current phase if continuing it gains little."""
        time = len(self._bounds) + 1
        if time > self._decay_from:
            return
        self._bounds.append(bound)
        self._gain = gain_from_doubling(self._bounds)
        if not self._ends_by_itself or time < self._fewest:
            return
        if time < self._unlock_from:
            if self._gain.is_below(_FAST * abs(bound - self._bounds[0])):
                self._unlock_from, self._unlock_to = time, time + max(self._fewest, time // 2)
        elif time >= max(self._unlock_to, self._fewest) and self._has_leveled_off:
            self._decay_from, self.epochs = time, time + max(self._fewest, time // 2)

    @property
    def _has_leveled_off(self) -> bool:
        falls = self._gain.is_loss(self._tolerance) and not self._may_fall
        return self._gain.is_below(self._tolerance) and not falls

    @property
    def _tolerance(self) -> float:
        return max(_TOLERANCE, _RELATIVE_TOLERANCE * abs(self._bounds[-1]))

    @property
    def status(self) -> Status:
        """How the fit ended, unless it was interrupted."""
        if math.isnan(self._gain.value):
            return "budget"
        if self._has_leveled_off:
            return "converged"
        return "still rising" if self._gain.value > 2 * self._gain.standard_error else "budget"
