"""The contract of an objective: a lower bound of the log evidence of each observation, to be maximized."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.options import options_repr
from amortvi.data import Batch
from amortvi.model import Model
from amortvi.objectives.gradients import stop_score_gradient
from amortvi.posterior import InferenceNetwork, LogWeights, log_weights
from amortvi.posterior.log_weights import KLForm

__all__ = ["Estimate", "Objective"]


@dataclass(frozen=True)
class Estimate:
    """The estimate of an objective on one batch.

    Args:
        bound: the bound of each observation in nats, ``(B,)``. This is what the history and early stopping use: it means the
            same in every epoch, whatever gradient training follows.
        weights: the log weights from which it was computed.
        surrogate: a quantity, ``(B,)``, whose gradient training follows, if that is not the gradient of the bound.
    """

    bound: Tensor
    weights: LogWeights
    surrogate: Tensor | None = None

    def elbo(self, observations: int | None) -> Tensor:
        """Return the mean bound per observation.

        Args:
            observations: the size of the data set, over which the sites outside the plate are shared.
        """
        return self._mean(self.bound, observations)

    def loss(self, observations: int | None) -> Tensor:
        """Return the loss to be minimized: the negative mean of the surrogate, or of the bound if there is none."""
        return -self._mean(self.bound if self.surrogate is None else self.surrogate, observations)

    def _mean(self, values: Tensor, observations: int | None) -> Tensor:
        return values.mean() + self.weights.global_log_prob / (observations or values.shape[0])


class Objective(ABC):
    """A bound that is a reduction of the log weights of each observation.

    A subclass writes `bound`, and `surrogate` if training is to follow a different gradient than that of the bound.

    A number that changes during training, such as a KL weight, must be a tensor that `advance` changes in place: a compiled
    step reads it each time, but would keep a Python number constant.

    Args:
        particles: ``K``, the number of draws for each observation.

    Raises:
        OptionError: ``particles`` is not a positive integer.
    """

    def __init__(self, particles: int = 1) -> None:
        self.particles = positive_int("particles", particles)

    def estimate(self, model: Model, network: InferenceNetwork, batch: Batch) -> Estimate:
        """Draw from the posteriors, score the draws under posterior and model, and reduce the log weights.

        Args:
            model: the generative model, set up.
            network: the inference network.
            batch: ``B`` observations.
        """
        context = network.context(batch)
        q = network.family(context)
        log_density = stop_score_gradient(network.family, context) if self.stops_score_gradient() else None
        weights = log_weights(model, q, batch, self.particles, kl=self.kl_form(), log_density=log_density)
        bound, surrogate = self.bound(weights), self.surrogate(weights, q)
        # Beside a surrogate, the bound has no gradient that could be taken for that of the objective.
        return Estimate(bound if surrogate is None else bound.detach(), weights, surrogate)

    @abstractmethod
    def bound(self, weights: LogWeights) -> Tensor:
        """Reduce the log weights ``(K, B)`` to a bound of each observation, ``(B,)``."""

    def surrogate(self, weights: LogWeights, q: Distribution) -> Tensor | None:
        """Return a quantity, ``(B,)``, whose gradient training is to follow, or ``None`` for the bound itself.

        Args:
            weights: the log weights.
            q: the posteriors, batch shape ``(B,)``, event shape ``(D,)``.
        """
        return None

    def kl_form(self) -> KLForm:
        """Return how the KL to the prior is computed; an objective that needs log weights needs it sampled."""
        return "sampled"

    def stops_score_gradient(self) -> bool:
        """Whether the gradient of ``log q`` goes through the draws alone, not through the posterior's parameters."""
        return False

    def to(self, device: torch.device) -> None:  # noqa: B027  # most objectives have nothing to move
        """Move what `advance` changes to the device on which training is about to begin."""

    def advance(self, epochs: float) -> None:  # noqa: B027  # most objectives do not change
        """Update what changes during training; called before each step.

        Args:
            epochs: passes over the data so far, including those of earlier fits; fractional within an epoch if its number of
                steps is known.
        """

    def __repr__(self) -> str:
        return options_repr(self)
