r"""Renyi's bound (Li and Turner, 2016).

.. math::

    \mathcal L_\alpha(x) = \frac1{1 - \alpha} \log E_q\bigl[w^{1 - \alpha}\bigr]
    \approx \frac1{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha},
    \qquad w = \frac{p(x, z)}{q(z \mid x)}.

It falls as :math:`\alpha` rises: :math:`\alpha = 0` is the evidence, estimated by the importance-weighted bound,
:math:`\alpha \to 1` the ELBO, and larger orders lie below the ELBO. A small order lets ``q`` cover the posterior and a large
one lets it seek a mode. Below zero :math:`\mathcal L_\alpha` lies above the evidence.

What is estimated from ``K`` draws is biased, since the logarithm of a mean is not the mean of the logarithm. For one draw
it is the ELBO for every order; with ``K`` it goes to :math:`\mathcal L_\alpha`, from below for :math:`\alpha < 1` and from
above for :math:`\alpha > 1`, at a rate of ``1 / K`` where :math:`w^{1 - \alpha}` has a finite variance. So for
:math:`\alpha \ge 0` its mean is a lower bound of the evidence for any ``K``; for negative orders with many draws it may be above,
and a higher value is then not a better fit. The gradients are unbiased for the mean of the bound of ``K`` draws.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from amortvi._checks import finite_float
from amortvi.guide import AmortizedGuide
from amortvi.objectives.base import Objective
from amortvi.objectives.gradients import GradientForm, checked_gradient, doubly_reparameterized
from amortvi.objectives.weights import LogWeights

__all__ = ["Renyi"]


class Renyi(Objective):
    """Renyi's bound, of each observation by itself and so right for any size of a minibatch.

    Args:
        alpha: the order; 0 is `IWAE`, 1 the sampled `ELBO`.
        particles: ``K``, the number of draws for each observation; with one draw all orders are the same.
        gradient: ``"dreg"``, doubly reparameterized, or ``"plain"``. Both are unbiased.

    Raises:
        OptionError: an option is out of range.

    Example:
        >>> Renyi(0.5, particles=10)
        Renyi(alpha=0.5, particles=10, gradient='dreg')
    """

    def __init__(self, alpha: float, particles: int = 5, *, gradient: GradientForm = "dreg") -> None:
        super().__init__(particles)
        self.alpha = finite_float("alpha", alpha)
        self.gradient = checked_gradient(gradient)

    def holds_density_fixed(self) -> bool:
        """Whether the gradient is doubly reparameterized."""
        return self.gradient == "dreg"

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the bound of order ``alpha``, ``(B,)``."""
        log_weight, power = weights.log_weight, 1 - self.alpha
        if power == 0:
            return log_weight.mean(0)
        # Near order 1 the logarithm is close to zero, and divided by what is close to zero: log1p and expm1 keep its digits.
        largest = log_weight.detach().amax(0) if power > 0 else log_weight.detach().amin(0)
        return largest + (power * (log_weight - largest)).expm1().mean(0).log1p() / power

    def surrogate(self, weights: LogWeights, posterior: Distribution, guide: AmortizedGuide) -> Tensor | None:
        """Return what has the doubly reparameterized gradient, where that is wanted."""
        return doubly_reparameterized(weights, order=self.alpha) if self.gradient == "dreg" else None

    def __repr__(self) -> str:
        return f"Renyi(alpha={self.alpha}, particles={self.particles}, gradient={self.gradient!r})"
