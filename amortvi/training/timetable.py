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

from typing import Any

from amortvi.training.convergence import FAST, Status
from amortvi.training.learning_curve import Gain, gain_from_doubling

__all__ = ["Timetable"]

_UNLOCK_FROM, _UNLOCK_TO, _DECAY_FROM = 0.25, 0.5, 0.5
"""The phases as fractions of the epochs."""
_LOWEST_RATE = 0.01
"""The last learning rate, as a fraction of the first."""

_RECORDED = ("epochs", "gain", "_bounds", "_judged_from", "_unlock_from", "_unlock_to", "_decay_from")
"""The attributes that depend on the bounds so far."""


class Timetable:
    """The phases of one fit. Times are epochs since its start; `epochs` is its length, as far as it is known.

    Args:
        epochs: the number of epochs, or the largest if the fit ends by itself.
        ends_by_itself: whether the fit ends when it has converged.
        locks: whether off-diagonal parameters wait.
        decays: whether the learning rate falls.
        fewest_epochs: a phase that ends by itself takes at least as many epochs.
        may_fall: whether a bound that falls ends the fit, as the validation ELBO of a fit that overfits.
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
        self.gain = Gain()
        self._bounds: list[float] = []
        self._ends_by_itself = ends_by_itself
        self._decays = decays
        self._fewest = fewest_epochs
        self._judged_from = 0
        self._may_fall = may_fall
        self._unlock_from, self._unlock_to = (_UNLOCK_FROM * epochs, _UNLOCK_TO * epochs) if locks else (0.0, 0.0)
        self._decay_from = _DECAY_FROM * epochs if decays else epochs

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

    def record(self, bound: float, *, objective_changed: bool = False) -> None:
        """Record the bound of one epoch, and end the current phase if continuing it gains little.

        An objective that has changed during the epoch, such as one with a rising weight of the KL, is not judged.
        """
        time = len(self._bounds) + 1
        if time > self._decay_from:
            return
        self._bounds.append(bound)
        if objective_changed:
            self._judged_from = time
        self.gain = gain_from_doubling(self._bounds[self._judged_from :])
        if not self._ends_by_itself or time < self._judged_from + self._fewest:
            return
        if time < self._unlock_from:
            if self.gain.is_below(FAST * abs(bound - self._bounds[0])):
                self._unlock_from, self._unlock_to = time, time + max(self._fewest, time // 2)
        elif time >= self._unlock_to and self.status == "converged":
            self._decay_from, self.epochs = time, time + (max(self._fewest, time // 2) if self._decays else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return what `record` changes."""
        return {name: getattr(self, name) for name in _RECORDED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned."""
        for name in _RECORDED:
            setattr(self, name, state[name])
        self.gain, self._bounds = Gain(*self.gain), list(self._bounds)

    @property
    def status(self) -> Status:
        """How the fit ends, unless it is interrupted."""
        if self.gain.is_rise:
            return "still rising"
        if self.gain.is_fall:
            return "converged" if self._may_fall else "falling"
        return "converged" if self.gain.is_negligible else "budget"
