"""The estimate of an objective on a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from amortvi.posterior import LogWeights

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """The estimate of an objective on one batch.

    Args:
        bound: the bound of each observation in nats, ``(B,)``, used by the history and by early stopping. It is comparable
            between epochs, whatever gradient training follows.
        weights: the log weights from which it was computed.
        surrogate: a quantity, ``(B,)``, whose gradient training follows instead of that of the bound.
    """

    bound: Tensor
    weights: LogWeights
    surrogate: Tensor | None = None

    def elbo(self, observations: int | None) -> Tensor:
        """Return the mean bound per observation; the sites outside the plate are shared by all ``observations``."""
        return self._mean(self.bound, observations)

    def loss(self, observations: int | None) -> Tensor:
        """Return the loss to be minimized: the negative mean of the surrogate, or of the bound if there is none."""
        return -self._mean(self.bound if self.surrogate is None else self.surrogate, observations)

    def _mean(self, values: Tensor, observations: int | None) -> Tensor:
        return values.mean() + self.weights.global_log_prob / (observations or values.shape[0])
