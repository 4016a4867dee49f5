"""The contract of an objective: a bound of the log evidence of each observation, to be maximised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from amortvi._checks import positive_int
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives.weights import LogWeights, log_weights
from amortvi.observations import Batch

__all__ = ["Estimate", "Objective"]


@dataclass(frozen=True)
class Estimate:
    """An objective's estimate on one batch.

    Args:
        bound: the bound of each observation in nats, ``(B,)``: what is reported.
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

    A number that changes while training, such as a weight of the KL, must be a tensor that is changed in place: a compiled
    step reads it anew each time, and would hold a Python number fixed.

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
        weights = log_weights(
            model,
            guide.prototype,
            guide.get_posterior(*batch.args, **batch.kwargs),
            batch,
            self.particles,
            closed_form_kl=self.takes_closed_form_kl(guide),
        )
        return Estimate(self.bound(weights), weights)

    def takes_closed_form_kl(self, guide: AmortizedGuide) -> bool:
        """Whether the KL to the prior is wanted in closed form; an objective that needs the weights says no."""
        return False

    @abstractmethod
    def bound(self, weights: LogWeights) -> Tensor:
        """Reduce the log weights ``(K, B)`` to a bound of each observation, ``(B,)``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(particles={self.particles})"
