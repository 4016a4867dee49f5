r"""The importance-weighted bound (Burda, Grosse and Salakhutdinov, 2016).

.. math::

    \mathrm{IWAE}_K(x) = E\Bigl[\log \frac1K \sum_{k=1}^K w_k\Bigr] \le \log p(x),
    \qquad w_k = \frac{p(x, z_k)}{q(z_k \mid x)}.

With one draw it is the ELBO. It never falls as ``K`` grows, and where the weights have a finite variance it comes as
close to the evidence as :math:`\operatorname{Var}(w) / (2 K p(x)^2)`.

Its plain gradient, :math:`\sum_k \tilde w_k\, d \log w_k` with normalised weights :math:`\tilde w_k`, serves the model
well. For the posterior it fades: as the bound becomes tight whatever ``q`` is, the mean of that gradient falls as
``1 / K`` and its standard deviation as :math:`1 / \sqrt K` only, so that their ratio falls as :math:`1 / \sqrt K`
(Rainforth et al., 2018). The doubly reparameterized gradient has the same mean, with a ratio that *rises* as :math:`\sqrt K`
(Tucker et al., 2019; see `amortvi.objectives.gradients`); both rates again take a finite variance of the weights. It is the
default. With few draws from a posterior that is far off, single parameters may have somewhat more noise than the plain one
gives them; with many draws, or near the posterior, it is far ahead. It evaluates the density of ``q`` at the draws, which the
plain one knows from the noise that they were made of.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi.guide import AmortizedGuide
from amortvi.objectives.base import Objective
from amortvi.objectives.gradients import GradientForm, checked_gradient, doubly_reparameterized
from amortvi.objectives.weights import LogWeights

__all__ = ["IWAE"]


class IWAE(Objective):
    """The importance-weighted bound.

    Args:
        particles: ``K``, the number of draws for each observation.
        gradient: ``"dreg"``, doubly reparameterized, or ``"plain"``. Both are unbiased; the first does not drown in noise as
            the draws become many.

    Raises:
        OptionError: an option is out of range.

    Example:
        >>> IWAE(particles=50)
        IWAE(particles=50, gradient='dreg')
    """

    def __init__(self, particles: int = 5, *, gradient: GradientForm = "dreg") -> None:
        super().__init__(particles)
        self.gradient = checked_gradient(gradient)

    def holds_density_fixed(self) -> bool:
        """Whether the gradient is doubly reparameterized."""
        return self.gradient == "dreg"

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the logarithm of the mean weight, ``(B,)``."""
        return torch.logsumexp(weights.log_weight, dim=0) - math.log(self.particles)

    def surrogate(self, weights: LogWeights, posterior: Distribution, guide: AmortizedGuide) -> Tensor | None:
        """Return what has the doubly reparameterized gradient, where that is wanted."""
        return doubly_reparameterized(weights, order=0.0) if self.gradient == "dreg" else None

    def __repr__(self) -> str:
        return f"IWAE(particles={self.particles}, gradient={self.gradient!r})"
