"""The contract of an objective: a bound of the log evidence of each observation, to be maximised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._checks import positive_int
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives.gradients import held_fixed
from amortvi.objectives.weights import LogWeights, log_weights
from amortvi.observations import Batch

__all__ = ["Estimate", "Objective"]


@dataclass(frozen=True)
class Estimate:
    """An objective's estimate on one batch.

    Args:
        bound: the bound of each observation in nats, ``(B,)``: what is reported, in the history and to early stopping. Whatever
            the training follows, it is a quantity of each observation that means the same in every epoch.
        weights: the terms that it was made of.
        surrogate: what has the gradient that training follows, ``(B,)``, where that is another than the bound's own.
    """

    bound: Tensor
    weights: LogWeights
    surrogate: Tensor | None = None

    def elbo(self, observations: int | None) -> Tensor:
        """Return the mean bound an observation.

        Args:
            observations: the size of the whole data set, over which what stands outside the plate is shared out.
        """
        return self._mean(self.bound, observations)

    def loss(self, observations: int | None) -> Tensor:
        """Return what is to be minimised: the negative of `elbo`, or of the mean surrogate where there is one."""
        return -self._mean(self.bound if self.surrogate is None else self.surrogate, observations)

    def _mean(self, values: Tensor, observations: int | None) -> Tensor:
        return values.mean() + self.weights.global_log_prob / (observations or values.shape[0])


class Objective(ABC):
    """A bound that is a reduction of per-observation log weights.

    A leaf writes `bound`. Where training is to follow another gradient than the bound's own, it writes `surrogate` too.

    A number that changes while training, such as a weight of the KL, must be a tensor that is changed in place, in `advance`: a
    compiled step reads it anew each time, and would hold a Python number fixed.

    Args:
        particles: ``K``, the number of draws for each observation.

    Raises:
        OptionError: ``particles`` is not a positive integer.
    """

    def __init__(self, particles: int = 1) -> None:
        self.particles = positive_int("particles", particles)

    def estimate(self, model: GenerativeModel, guide: AmortizedGuide, batch: Batch) -> Estimate:
        """Draw from the guide, score under both, and reduce.

        Args:
            model: the generative model.
            guide: a guide that is set up.
            batch: ``B`` observations.
        """
        parameters = guide.parameters_of(*batch.args, **batch.kwargs)
        posterior = guide.family.distribution(parameters)
        weights = log_weights(
            model,
            guide.prototype,
            posterior,
            batch,
            self.particles,
            closed_form_kl=self.takes_closed_form_kl(guide),
            log_density=held_fixed(guide.family, parameters) if self.holds_density_fixed() else None,
        )
        bound, surrogate = self.bound(weights), self.surrogate(weights, posterior, guide)
        # Where the gradient is another's, the bound has none that could be taken for it.
        return Estimate(bound if surrogate is None else bound.detach(), weights, surrogate)

    def to(self, device: torch.device) -> None:  # noqa: B027  # most objectives have nothing to move
        """Bring what `advance` changes to the device of the fit that is about to begin."""

    def advance(self, epochs: float) -> None:  # noqa: B027  # most objectives stay the same
        """Take note of how far the training is, before each step.

        Args:
            epochs: passes over the data so far, those of earlier fits too; a fraction during an epoch, where its number of
                steps is known.
        """

    def takes_closed_form_kl(self, guide: AmortizedGuide) -> bool:
        """Whether the KL to the prior is wanted in closed form; an objective that needs the weights says no."""
        return False

    def holds_density_fixed(self) -> bool:
        """Whether ``log q`` in the weights is to have a gradient for the draws alone, not for the posterior's parameters."""
        return False

    @abstractmethod
    def bound(self, weights: LogWeights) -> Tensor:
        """Reduce the log weights ``(K, B)`` to a bound of each observation, ``(B,)``."""

    def surrogate(self, weights: LogWeights, posterior: Distribution, guide: AmortizedGuide) -> Tensor | None:
        """Return what has the gradient that training is to follow, ``(B,)``, or ``None`` for the bound itself.

        Args:
            weights: the log weights.
            posterior: of the observations, batch shape ``(B,)``, event shape ``(D,)``.
            guide: the guide that gave it, to be asked what the posterior has in closed form.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(particles={self.particles})"
