r"""The evidence lower bound (Kingma and Welling, 2014; Rezende, Mohamed and Wierstra, 2014).

.. math::

    \mathrm{ELBO}(x) = E_q[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z))
                     = E_q[\log p(x, z) - \log q(z \mid x)] \le \log p(x).

The first form takes the KL exactly where the prior is ``N(0, I)`` and the family has it in closed form; the second
estimates both terms from the same draws.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from amortvi.errors import OptionError
from amortvi.guide import AmortizedGuide
from amortvi.objectives.base import Objective
from amortvi.objectives.weights import LogWeights

__all__ = ["ELBO"]

KLForm = Literal["auto", "closed_form", "sampled"]


class ELBO(Objective):
    """The evidence lower bound, with reparameterized gradients.

    Args:
        particles: draws for each observation, over which the estimate is averaged.
        kl: ``"closed_form"`` takes the KL exactly, ``"sampled"`` estimates it, ``"auto"`` takes it exactly where the
            model's prior is a fixed ``N(0, I)`` and the family knows it.

    Raises:
        OptionError: an option is out of range; at use, ``kl="closed_form"`` where there is none.

    Example:
        >>> ELBO(particles=5)
        ELBO(particles=5, kl='auto')
    """

    def __init__(self, particles: int = 1, *, kl: KLForm = "auto") -> None:
        super().__init__(particles)
        if kl not in ("auto", "closed_form", "sampled"):
            raise OptionError(f"kl must be 'auto', 'closed_form' or 'sampled'; got {kl!r}.")
        self.kl = kl

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
        return available and self.kl != "sampled"

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the mean over draws, ``(B,)``."""
        if weights.closed_form_kl is None:
            return weights.log_weight.mean(0)
        return weights.reconstruction - weights.closed_form_kl

    def __repr__(self) -> str:
        return f"ELBO(particles={self.particles}, kl={self.kl!r})"
