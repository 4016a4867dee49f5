r"""The importance-weighted bound (Burda, Grosse and Salakhutdinov, 2016).

.. math::

    \mathrm{IWAE}_K(x) = E\Bigl[\log \frac1K \sum_{k=1}^K w_k\Bigr] \le \log p(x),
    \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}.

With one draw it is the ELBO. It never decreases with ``K``, and if the weights have a finite variance, its distance to the
evidence is about :math:`\operatorname{Var}(w) / (2 K p(x)^2)`.

Its plain gradient, :math:`\sum_k \tilde w_k\, d \log w_k` with normalized weights :math:`\tilde w_k`, works well for the
model but degrades for the posterior: since the bound becomes tight for any ``q``, the mean of the gradient falls as ``1 / K``,
but its standard deviation only as :math:`1 / \sqrt K`, so their ratio falls as :math:`1 / \sqrt K` (Rainforth et al., 2018).
The doubly reparameterized gradient, the default, has the same mean and a ratio that *rises* as :math:`\sqrt K` (Tucker et al.,
2019; see `amortvi.objectives.gradients`); both rates also require a finite variance of the weights. With few draws from a poor
posterior, it can be somewhat noisier than the plain gradient for some parameters; with many draws, or close to the exact
posterior, it is far less noisy. It evaluates the density of ``q`` at the draws, which the plain gradient derives from their
noise.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from amortvi.objectives.base import Objective
from amortvi.objectives.gradients import GradientForm, check_gradient, doubly_reparameterized, uses_dreg
from amortvi.posterior import LogWeights

__all__ = ["IWAE"]


class IWAE(Objective):
    """The importance-weighted bound.

    Args:
        particles: ``K``, the number of draws for each observation.
        gradient: ``"dreg"``, doubly reparameterized, ``"plain"``, or ``"auto"``; see
            `GradientForm`. All are unbiased, but with many draws the noise of the plain gradient dominates.

    Raises:
        OptionError: an option is out of range.

    Example:
        >>> IWAE(particles=50)
        IWAE(particles=50)
    """

    order = 0.0

    def __init__(self, particles: int = 5, *, gradient: GradientForm = "auto") -> None:
        super().__init__(particles)
        self.gradient = check_gradient(gradient)

    def stops_score_gradient(self, q: Distribution) -> bool:
        return uses_dreg(self.gradient, q)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the logarithm of the mean weight, ``(B,)``."""
        return weights.log_mean_weight

    def surrogate(self, weights: LogWeights, q: Distribution) -> Tensor | None:
        """Return a quantity with the doubly reparameterized gradient, if it was chosen."""
        return doubly_reparameterized(weights, order=0.0) if uses_dreg(self.gradient, q) else None
