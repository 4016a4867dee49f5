r"""The evidence lower bound (Kingma and Welling, 2014; Rezende, Mohamed and Wierstra, 2014).

.. math::

    \mathrm{ELBO}(x) = E_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))
                     = E_q[\log p(x, z) - \log q(z \mid x)] \le \log p(x).

The first form takes the KL exactly where the prior is ``N(0, I)`` and the family has it in closed form; the second
estimates both terms from the same draws.

Training may follow something else than the bound, to end at a better place:

.. math::

    E_q[\log p(x \mid z)] - \beta\, \mathrm{KL}(q(z \mid x) \,\|\, p(z)).

A weight :math:`\beta > 1` asks for latents that say little and are independent (beta-VAE; Higgins et al., 2017). One that rises
from zero to one (`amortvi.objectives.schedules`), or a part of the KL that is free (`amortvi.objectives.free_bits`), keeps
latents from being given up before the decoder uses them. None of them changes the *bound*, which is the ELBO always: the
history, early stopping and comparisons mean the same with any of them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._checks import not_negative_float, positive_float
from amortvi.errors import OptionError
from amortvi.guide import AmortizedGuide
from amortvi.objectives.base import Objective
from amortvi.objectives.free_bits import charged_by_dimension, charged_in_all
from amortvi.objectives.schedules import ScheduledWeight, WeightSchedule
from amortvi.objectives.weights import LogWeights

__all__ = ["ELBO"]

KLForm = Literal["auto", "closed_form", "sampled"]
ELBOGradient = Literal["reparameterized", "sticking_the_landing"]


class ELBO(Objective):
    """The evidence lower bound, with reparameterized gradients.

    Args:
        particles: draws for each observation, over which the estimate is averaged.
        kl: ``"closed_form"`` takes the KL exactly, ``"sampled"`` estimates it, ``"auto"`` takes it exactly where the
            model's prior is a fixed ``N(0, I)`` and the family knows it.
        gradient: ``"sticking_the_landing"`` leaves out the score of the posterior, which is zero in the mean: the noise of the
            gradient then vanishes as the posterior becomes exact (Roeder et al., 2017; see `amortvi.objectives.gradients`). It
            needs densities at the draws, and so samples the KL.
        kl_weight: what training multiplies the KL with: a number, or a function of the passes over the data so far, such as
            `LinearSchedule` or `CyclicalSchedule`.
        free_bits: nats of the KL of each latent dimension, in the mean over the minibatch, that training does not charge. Where
            the KL is taken in closed form and the family's marginals are Gaussian each dimension has its own; elsewhere the
            whole KL has that of all dimensions.

    Raises:
        OptionError: an option is out of range; at use, ``kl="closed_form"`` where there is none.

    Example:
        >>> from amortvi.objectives import LinearSchedule
        >>> ELBO(particles=5)
        ELBO(particles=5, kl='auto')
        >>> ELBO(kl_weight=LinearSchedule(epochs=20), free_bits=0.1)
        ELBO(particles=1, kl='auto', kl_weight=LinearSchedule(epochs=20.0, start=0.0, stop=1.0), free_bits=0.1)
    """

    def __init__(
        self,
        particles: int = 1,
        *,
        kl: KLForm = "auto",
        gradient: ELBOGradient = "reparameterized",
        kl_weight: float | WeightSchedule = 1.0,
        free_bits: float | None = None,
    ) -> None:
        super().__init__(particles)
        if kl not in ("auto", "closed_form", "sampled"):
            raise OptionError(f"kl must be 'auto', 'closed_form' or 'sampled'; got {kl!r}.")
        if gradient not in ("reparameterized", "sticking_the_landing"):
            raise OptionError(f"gradient must be 'reparameterized' or 'sticking_the_landing'; got {gradient!r}.")
        if gradient == "sticking_the_landing" and kl == "closed_form":
            raise OptionError(
                "gradient='sticking_the_landing' leaves a term out of the gradient of the sampled KL, which a KL in closed form "
                "has not: use kl='auto' or 'sampled'."
            )
        self.kl = kl
        self.gradient = gradient
        self.free_bits = None if free_bits is None else positive_float("free_bits", free_bits)
        self.kl_weight = kl_weight if callable(kl_weight) else not_negative_float("kl_weight", kl_weight)
        self._weight = ScheduledWeight("kl_weight", self.kl_weight) if callable(self.kl_weight) else self.kl_weight

    def to(self, device: torch.device) -> None:
        if isinstance(self._weight, ScheduledWeight):
            self._weight.to(device)

    def advance(self, epochs: float) -> None:
        if isinstance(self._weight, ScheduledWeight):
            self._weight.advance(epochs)

    def takes_closed_form_kl(self, guide: AmortizedGuide) -> bool:
        """Whether the KL is taken exactly for this guide.

        Raises:
            OptionError: it was asked for and there is none.
        """
        available = guide.prototype.standard_normal_prior and guide.family.has_closed_form_kl
        if self.kl == "closed_form" and not available:
            reason = (
                f"the family {type(guide.family).__name__} has none"
                if guide.prototype.standard_normal_prior
                else "the model's prior is not a fixed N(0, I)"
            )
            raise OptionError(f"kl='closed_form' cannot be had: {reason}; use kl='auto' or 'sampled'.")
        return available and self.kl != "sampled" and not self.holds_density_fixed()

    def holds_density_fixed(self) -> bool:
        """Whether the gradient sticks the landing."""
        return self.gradient == "sticking_the_landing"

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the mean over draws, ``(B,)``."""
        if weights.closed_form_kl is None:
            return weights.log_weight.mean(0)
        return weights.reconstruction - weights.closed_form_kl

    def surrogate(self, weights: LogWeights, posterior: Distribution, guide: AmortizedGuide) -> Tensor | None:
        """Return the reconstruction less the weighted and charged KL, where that is another than the KL itself."""
        if self.kl_weight == 1 and self.free_bits is None:
            return None
        weight = self._weight.tensor if isinstance(self._weight, ScheduledWeight) else self._weight
        return weights.reconstruction - weight * self._charged(weights, posterior, guide)

    def _charged(self, weights: LogWeights, posterior: Distribution, guide: AmortizedGuide) -> Tensor:
        if self.free_bits is None:
            return weights.kl
        if weights.closed_form_kl is not None and guide.family.has_gaussian_marginals:
            return charged_by_dimension(weights.kl, posterior, self.free_bits)
        return charged_in_all(weights.kl, guide.latents.dim, self.free_bits)

    def __repr__(self) -> str:
        schedule = getattr(self.kl_weight, "__name__", repr(self.kl_weight))
        options = {
            f"gradient={self.gradient!r}": self.gradient != "reparameterized",
            f"kl_weight={schedule}": self.kl_weight != 1,
            f"free_bits={self.free_bits}": self.free_bits is not None,
        }
        given = "".join(f", {option}" for option, is_given in options.items() if is_given)
        return f"ELBO(particles={self.particles}, kl={self.kl!r}{given})"
