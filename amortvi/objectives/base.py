"""The contract of an objective: a bound of the log evidence of each observation, to be maximized."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.keyword_options import options_repr
from amortvi.data import Batch
from amortvi.families import draw
from amortvi.model import Model
from amortvi.objectives.gradients import stop_score_gradient
from amortvi.posterior import InferenceNetwork, LogWeights, log_weights
from amortvi.posterior.log_weights import KLForm

__all__ = ["Estimate", "Objective"]


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


class Objective(ABC):
    """A bound that is a reduction of the log weights of each observation.

    A subclass implements `bound`, and `surrogate` if training is to follow another gradient than that of the bound. A number
    that changes during training, such as a KL weight, must be a tensor that `advance` changes in place: a compiled step reads
    a tensor each time, but keeps a Python number constant.

    Args:
        particles: ``K``, the number of draws for each observation; from a mixture, for each of its components.

    Raises:
        OptionError: ``particles`` is not a positive integer.
    """

    def __init__(self, particles: int = 1) -> None:
        self.particles = positive_int("particles", particles)

    def estimate(self, model: Model, network: InferenceNetwork, batch: Batch) -> Estimate:
        """Draw latents of each observation of a batch from its posterior, and reduce their log weights."""
        context = network.context(batch)
        q = network.family(context)
        log_density = stop_score_gradient(network.family, context) if self.stops_score_gradient(q) else None
        drawn = draw(q, self.particles)
        weights = log_weights(
            model, q, batch, drawn, kl=self.kl_form(q), log_density=log_density, theta=network.draw_globals()
        )
        bound, surrogate = self.bound(weights), self.surrogate(weights, q)
        # The gradient of the objective is then that of the surrogate, so the bound has none.
        return Estimate(bound if surrogate is None else bound.detach(), weights, surrogate)

    @abstractmethod
    def bound(self, weights: LogWeights) -> Tensor:
        """Reduce the log weights ``(K, B)`` to a bound of each observation, ``(B,)``."""

    def surrogate(self, weights: LogWeights, q: Distribution) -> Tensor | None:
        """Return a quantity, ``(B,)``, whose gradient training follows, or ``None`` for the bound itself."""
        return None

    def kl_form(self, q: Distribution) -> KLForm:
        """Return how the KL of posteriors ``q`` is computed; an objective that uses `LogWeights.log_weight` needs it sampled."""
        return "sampled"

    def stops_score_gradient(self, q: Distribution) -> bool:
        """Whether ``log q`` is differentiated through the draws alone, not through the parameters of the posterior."""
        return False

    def to(self, device: torch.device) -> None:  # noqa: B027  # most objectives have nothing to move
        """Move the tensors that `advance` changes to the device used for training."""

    def advance(self, epochs: float) -> bool:
        """Update what changes during training, and return whether anything has changed; called before each step.

        Args:
            epochs: passes over the data so far, earlier fits included; fractional if the number of steps per epoch is known.
        """
        return False

    def __repr__(self) -> str:
        return options_repr(self)
