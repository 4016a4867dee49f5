r"""The evidence lower bound (Kingma and Welling, 2014; Rezende, Mohamed and Wierstra, 2014).

.. math::

    \mathrm{ELBO}(x) = E_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))
                     = E_q[\log p(x, z) - \log q(z \mid x)] \le \log p(x).

The first form uses the KL in closed form, if the prior is ``N(0, I)`` and the KL is known; the second estimates all terms from
the same draws. To reach a better optimum, training may follow a modified objective:

.. math::

    E_q[\log p(x \mid z)] - \beta\, \mathrm{KL}(q(z \mid x) \,\|\, p(z)).

A weight :math:`\beta > 1` favors independent latents that carry little information (beta-VAE; Higgins et al., 2017). A weight
that rises from zero to one (`amortvi.objectives.schedules`) and free bits (`amortvi.objectives.free_bits`) prevent latents from
being pruned before the decoder uses them. None of these options changes the *bound*, which is always the ELBO, so that
histories, early stopping and comparisons remain comparable.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from amortvi._util.checks import nonnegative_float, optional, positive_float
from amortvi.errors import OptionError
from amortvi.families import has_fast_density, marginals
from amortvi.objectives.base import Objective
from amortvi.objectives.free_bits import charge_per_dimension, charge_total
from amortvi.objectives.schedules import ScheduledWeight, WeightSchedule
from amortvi.posterior import LogWeights
from amortvi.posterior.log_weights import KLForm

__all__ = ["ELBO"]

ELBOGradient = Literal["auto", "reparameterized", "sticking_the_landing"]


class ELBO(Objective):
    """The evidence lower bound, with reparameterized gradients.

    Args:
        particles: the number of draws for each observation, over which the estimate is averaged.
        kl: ``"closed_form"`` computes the KL exactly, ``"sampled"`` estimates it, and ``"auto"`` computes it exactly if the
            model's prior is a fixed ``N(0, I)`` and the KL of the posterior is known.
        gradient: ``"sticking_the_landing"`` omits the score of the posterior, which is zero on average: the noise of the
            gradient then vanishes as the posterior becomes exact (Roeder et al., 2017; see `amortvi.objectives.gradients`).
            It needs the densities of the draws, so the KL is sampled. ``"reparameterized"`` differentiates the bound as it is;
            ``"auto"`` does so with ``free_bits`` or ``kl="closed_form"``, which need the KL in closed form, and for a flow, for
            which the density of given draws is slow.
        kl_weight: the factor of the KL in training: a number, or a function of the passes over the data so far, such as
            `LinearSchedule` or `CyclicalSchedule`.
        free_bits: nats of KL per latent dimension, averaged over the minibatch, that training does not penalize. If the KL is
            computed in closed form and the marginals are normal, each dimension has its own allowance; otherwise the total
            KL has the allowance of all dimensions.

    Raises:
        OptionError: an option is out of range; or, during training, ``kl="closed_form"`` but the KL is unknown.

    Example:
        >>> from amortvi.objectives import LinearSchedule
        >>> ELBO(particles=5)
        ELBO(particles=5)
        >>> ELBO(kl_weight=LinearSchedule(epochs=20), free_bits=0.1)
        ELBO(kl_weight=LinearSchedule(epochs=20.0, start=0.0, stop=1.0), free_bits=0.1)
    """

    def __init__(
        self,
        particles: int = 1,
        *,
        kl: KLForm = "auto",
        gradient: ELBOGradient = "auto",
        kl_weight: float | WeightSchedule = 1.0,
        free_bits: float | None = None,
    ) -> None:
        super().__init__(particles)
        if kl not in ("auto", "closed_form", "sampled"):
            raise OptionError(f"kl must be 'auto', 'closed_form' or 'sampled'; got {kl!r}.")
        if gradient not in get_args(ELBOGradient):
            raise OptionError(
                f"gradient must be 'auto', 'reparameterized' or 'sticking_the_landing'; got {gradient!r}."
            )
        if gradient == "sticking_the_landing" and kl == "closed_form":
            raise OptionError(
                "gradient='sticking_the_landing' omits a term from the gradient of a sampled KL, which a KL in closed form "
                "does not have: use kl='auto' or kl='sampled'."
            )
        self.kl = kl
        self.gradient = gradient
        self.free_bits = optional(positive_float, "free_bits", free_bits)
        self.kl_weight = kl_weight if callable(kl_weight) else nonnegative_float("kl_weight", kl_weight)
        self._weight = ScheduledWeight("kl_weight", self.kl_weight) if callable(self.kl_weight) else self.kl_weight

    def to(self, device: torch.device) -> None:
        if isinstance(self._weight, ScheduledWeight):
            self._weight.to(device)

    def advance(self, epochs: float) -> bool:
        return isinstance(self._weight, ScheduledWeight) and self._weight.advance(epochs)

    def kl_form(self, q: Distribution) -> KLForm:
        return "sampled" if self.stops_score_gradient(q) else self.kl

    def stops_score_gradient(self, q: Distribution) -> bool:
        if self.gradient == "auto":
            return self.free_bits is None and self.kl != "closed_form" and has_fast_density(q)
        return self.gradient == "sticking_the_landing"

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the mean over draws, ``(B,)``."""
        if weights.closed_form_kl is None:
            return weights.mean_log_weight
        return weights.reconstruction - weights.closed_form_kl

    def surrogate(self, weights: LogWeights, q: Distribution) -> Tensor | None:
        """Return the reconstruction minus the weighted KL beyond the free bits, unless that is the ELBO itself."""
        if self.kl_weight == 1 and self.free_bits is None:
            return None
        weight = self._weight.tensor if isinstance(self._weight, ScheduledWeight) else self._weight
        return weights.reconstruction - weight * self._charge(weights, q)

    def _charge(self, weights: LogWeights, q: Distribution) -> Tensor:
        if self.free_bits is None:
            return weights.kl
        marginal = marginals(q)
        if weights.closed_form_kl is not None and isinstance(marginal, Normal):
            return charge_per_dimension(weights.kl, marginal, self.free_bits)
        return charge_total(weights.kl, q.event_shape[0], self.free_bits)
