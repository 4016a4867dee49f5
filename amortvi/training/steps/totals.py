"""Sums over the observations of an epoch, which stay on the device until they are read."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from amortvi.objectives import Estimate

__all__ = ["Averages", "Totals"]


class Averages(NamedTuple):
    """Means over the observations of an epoch, in nats.

    Args:
        elbo: the bound, before each update.
        reconstruction: ``E_q[log p(x | z)]``.
        kl: ``KL(q || p(z))``.
    """

    elbo: float = math.nan
    reconstruction: float = math.nan
    kl: float = math.nan


class Totals:
    """The sums of an epoch so far; steps add to them in place, so that no step waits for the device.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        # In double precision if the device has it: an epoch may have millions of observations.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(4, dtype=dtype, device=device)

    def add(self, estimate: Estimate, observations: int | None) -> None:
        """Add one batch.

        Args:
            estimate: the objective's estimate on the batch.
            observations: the size of the data set, or ``None`` if unknown.
        """
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
