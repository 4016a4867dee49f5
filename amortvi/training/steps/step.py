"""The interface of eager and compiled steps over the minibatches of an epoch, and the sums that they accumulate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from amortvi.data import Minibatch
from amortvi.errors import NonFiniteError
from amortvi.objectives import Estimate

__all__ = ["Averages", "LateNonFiniteError", "NonFiniteStepError", "Step", "Totals"]


class Averages(NamedTuple):
    """Means over the observations of an epoch, in nats per observation.

    Args:
        elbo: the bound, estimated before each update.
        reconstruction: ``E_q[log p(x | z)]``.
        kl: ``KL(q || p(z))``.
    """

    elbo: float = math.nan
    reconstruction: float = math.nan
    kl: float = math.nan


class Totals:
    """The sums of an epoch so far, on the device of the steps, which add to them in place without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        # In double precision if the device has it: an epoch may have millions of observations.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(4, dtype=dtype, device=device)

    def add(self, estimate: Estimate, observations: int | None) -> None:
        """Add the estimate of the objective on one batch of a data set with this number of observations, if known."""
        weights = estimate.weights
        elbo = estimate.elbo(observations).detach()
        means = [elbo, weights.reconstruction.detach().mean(), weights.kl.detach().mean(), torch.ones_like(elbo)]
        self.sums.add_(torch.stack(means), alpha=estimate.bound.shape[0])

    def read(self) -> Averages:
        """Return the means; NaN before the first batch."""
        *sums, count = self.sums.tolist()
        return Averages(*(value / count for value in sums)) if count else Averages()

    def clear(self) -> None:
        """Set the sums to zero."""
        self.sums.zero_()


class LateNonFiniteError(NonFiniteError):
    """A non-finite number, detected some steps after it was computed; the eager step can locate it."""


class NonFiniteStepError(NonFiniteError):
    """A loss or gradient that is not finite.

    Args:
        message: what is not finite.
        sites: the sites whose term of the objective is not finite, if any.
        rows: the positions of the observations in the minibatch, if they are known.
    """

    def __init__(self, message: str, sites: Sequence[str] = (), rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.sites = sites
        self.rows = rows


class Step(Protocol):
    """Processes one minibatch at a time and accumulates sums: a training step, or an estimate without an update."""

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""

    def begin(self) -> None:
        """Prepare for an epoch: modes, learning rates and parameters may have changed since the previous epoch."""

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
