"""The contract of a training step, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from amortvi.observations import Batch

__all__ = ["Metrics", "Step"]


@dataclass(frozen=True)
class Metrics:
    """What one step says of its batch; numbers stay tensors, so that reading them is the caller's choice.

    Args:
        elbo: mean bound an observation in nats, before the update.
        reconstruction: mean ``E_q[log p(x | z)]``.
        kl: mean ``KL(q || p(z))``.
        observations: how many observations the means are over.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    observations: int


class Step(Protocol):
    """One update of the parameters from one batch."""

    def __call__(self, batch: Batch) -> Metrics:
        """Update the parameters.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; the parameters are then as before the call.
        """
