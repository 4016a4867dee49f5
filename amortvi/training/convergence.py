"""How a fit ended, and what training longer would gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from amortvi.training.learning_curve import FEWEST_EPOCHS, Gain

__all__ = ["FAST", "FINISHED", "Convergence", "Status"]

Status: TypeAlias = Literal["converged", "still rising", "falling", "budget", "interrupted", "stopped", "stopped early"]
"""How a fit ended; see `Convergence`."""

FINISHED: frozenset[Status | None] = frozenset({"converged", "stopped early"})
"""The statuses of fits that need no further training."""
FAST = 0.05
"""The bound rises fast while doubling the epochs would gain this fraction of its rise so far."""


@dataclass(frozen=True)
class Convergence:
    """How the last fit ended, judged from the bound of each epoch at the full learning rate.

    The bound is the validation ELBO if there are validation data, and otherwise the training ELBO. Statuses are:

    * ``"converged"``: doubling the epochs would not gain more than the tolerance, which is 0.01 nats per observation, or a
      ten-thousandth of the bound, or the noise of that estimate. A validation ELBO that falls has converged, too.
    * ``"still rising"``: doubling them would gain more.
    * ``"falling"``: the training ELBO was falling.
    * ``"budget"``: the epochs ended before this could be known.
    * ``"stopped early"``: the validation ELBO had not risen for the epochs of ``patience``.
    * ``"stopped"``: a callback ended the fit.
    * ``"interrupted"``: by Ctrl-C, or by an error after at least one epoch.

    Args:
        status: how the fit ended.
        epoch: the epoch whose parameters were kept: the last one, or the one with the best validation ELBO.
        gain: what doubling the epochs would gain, and its standard error, in nats per observation.
        climb: by how much the training ELBO has risen since the first epoch of all fits, in nats per observation.
        is_validated: whether the bound is the validation ELBO.
    """

    status: Status
    epoch: int
    gain: Gain
    climb: float
    is_validated: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", Gain(*self.gain))  # a saved run has a list

    @property
    def converged(self) -> bool:
        """Whether nothing shows that training longer would gain anything."""
        return self.status in FINISHED

    @property
    def overfits(self) -> bool:
        """Whether the validation ELBO was falling."""
        return self.is_validated and self.converged and self.gain.is_fall

    @property
    def is_unfinished(self) -> bool:
        """Whether the bound is not known to have begun to level off, so that training longer may gain any amount."""
        if self.converged:
            return False
        limit = self.gain.value + 2 * self.gain.standard_error
        return self.status not in ("still rising", "budget") or not limit <= FAST * self.climb

    @property
    def reason(self) -> str:
        """The reason for the status, for the end of a sentence."""
        bound = "validation ELBO" if self.is_validated else "training ELBO"
        if self.status == "interrupted":
            return "the fit was interrupted, or ended with an error"
        if self.status == "stopped":
            return "a callback ended the fit"
        if self.status == "stopped early":
            return "the validation ELBO had not risen for the epochs of patience"
        if math.isnan(self.gain.value):
            return f"the fit was too short to tell: {FEWEST_EPOCHS} epochs at the full learning rate are needed"
        if self.gain.is_fall:
            return f"the {bound} was falling" + (": training longer overfits" if self.overfits else "")
        states: dict[Status, str] = {"converged": "has leveled off", "still rising": "was still rising"}
        return (
            f"the {bound} {states.get(self.status, 'was too noisy to tell')}: twice as many epochs may gain "
            f"{self.gain.value:.2g} ± {2 * self.gain.standard_error:.1g} nats per observation"
        )

    def __str__(self) -> str:
        return f"{self.status} ({self.reason})"
