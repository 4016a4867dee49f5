"""The contract of an objective: a bound of the log evidence of each observation, to be maximized."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.keyword_options import options_repr
from amortvi.data import Batch
from amortvi.families import Family, draw
from amortvi.model import Model
from amortvi.objectives.estimate import Estimate
from amortvi.objectives.gradients import stop_score_gradient
from amortvi.objectives.labels import given_labels
from amortvi.posterior import InferenceNetwork, LogWeights, log_weights
from amortvi.posterior.global_latents import GlobalDraw
from amortvi.posterior.log_weights import KLForm

__all__ = ["Objective"]


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

    order: float = 1.0
    """The order of Renyi's bound that the objective is, by which missing labels are combined as draws are: 1 for the ELBO."""

    def __init__(self, particles: int = 1) -> None:
        self.particles = positive_int("particles", particles)

    def estimate(self, model: Model, network: InferenceNetwork, batch: Batch) -> Estimate:
        """Draw latents of each observation of a batch from its posterior, and reduce their log weights."""
        theta = network.draw_globals()
        if network.classifier is None:
            return self._estimate(model, network.family, network.context(batch), batch, theta)
        given = given_labels(network, batch)
        estimate = self._estimate(model, given.family, given.context, given.batch, theta, given.complete)
        return given.combine(estimate, self.order)

    def _estimate(
        self,
        model: Model,
        family: Family,
        context: Tensor,
        batch: Batch,
        theta: GlobalDraw,
        complete: frozenset[str] = frozenset(),
    ) -> Estimate:
        q = family(context)
        log_density = stop_score_gradient(family, context) if self.stops_score_gradient(q) else None
        drawn = draw(q, self.particles)
        weights = log_weights(
            model, q, batch, drawn, kl=self.kl_form(q), log_density=log_density, theta=theta, complete=complete
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
