r"""Renyi's bound (Li and Turner, 2016).

.. math::

    \mathcal L_\alpha(x) = \frac1{1 - \alpha} \log E_q\bigl[w^{1 - \alpha}\bigr]
    \approx \frac1{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha},
    \qquad w = \frac{p(x, z)}{q(z \mid x)}.

It decreases with :math:`\alpha`: :math:`\alpha = 0` is the evidence, estimated by the importance-weighted bound;
:math:`\alpha \to 1` is the ELBO; larger orders are below the ELBO, and negative ones above the evidence. With a small order
``q`` covers the posterior, with a large one it seeks a mode.

The estimate from ``K`` draws is biased, because the mean of a logarithm is not the logarithm of the mean. With one draw it is
the ELBO for every order; with more it converges to :math:`\mathcal L_\alpha`, from below for :math:`\alpha < 1` and from
above for :math:`\alpha > 1`, at the rate ``1 / K`` if :math:`w^{1 - \alpha}` has a finite variance. For
:math:`\alpha \ge 0` its mean is therefore a lower bound of the evidence for every ``K``; for negative orders and many draws
it can exceed the evidence, and a higher value does not mean a better fit. The gradients are unbiased for the mean of the bound
of ``K`` draws.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import finite_float
from amortvi.objectives.base import Objective
from amortvi.objectives.gradients import GradientForm, check_gradient, doubly_reparameterized, uses_dreg
from amortvi.posterior import LogWeights

__all__ = ["Renyi"]


class Renyi(Objective):
    """Renyi's bound, computed for each observation and therefore correct for every minibatch size.

    Args:
        alpha: the order; 0 is `IWAE`, 1 the sampled `ELBO`.
        particles: ``K``, the number of draws for each observation; with one draw all orders are equal.
        gradient: ``"dreg"``, doubly reparameterized, ``"plain"``, or ``"auto"``; see
            `GradientForm`. All are unbiased.

    Raises:
        OptionError: an option is out of range.

    Example:
        >>> Renyi(0.5, particles=10)
        Renyi(alpha=0.5, particles=10)
    """

    def __init__(self, alpha: float, particles: int = 5, *, gradient: GradientForm = "auto") -> None:
        super().__init__(particles)
        self.alpha = self.order = finite_float("alpha", alpha)
        self.gradient = check_gradient(gradient)

    def stops_score_gradient(self, q: Distribution) -> bool:
        return uses_dreg(self.gradient, q)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the bound of order ``alpha``, ``(B,)``."""
        log_weight, power = weights.log_weight, 1 - self.alpha
        if power == 0:
            return weights.mean_log_weight
        # Near order 1 the quotient of two numbers close to zero is computed; expm1 and log1p keep it accurate.
        largest = log_weight.detach().amax(0) if power > 0 else log_weight.detach().amin(0)
        return largest + weights.drawn.mean((power * (log_weight - largest)).expm1()).log1p() / power

    def surrogate(self, weights: LogWeights, q: Distribution) -> Tensor | None:
        """Return a quantity with the doubly reparameterized gradient, if it was chosen."""
        return doubly_reparameterized(weights, order=self.alpha) if uses_dreg(self.gradient, q) else None
