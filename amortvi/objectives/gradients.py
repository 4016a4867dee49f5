r"""Gradients that follow the draws and leave out the score of the posterior.

With draws :math:`z_k(\phi)` by reparameterization, a log weight depends on the parameters :math:`\phi` of the posterior in two
ways, along the draw and through the density of ``q`` at it:

.. math::

    \frac{d \log w_k}{d\phi}
        = \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial\phi}
        - \frac{\partial \log q_\phi(z_k)}{\partial\phi}.

The second term, the score, is zero in the mean. **Sticking the landing** (Roeder, Wu and Duvenaud, 2017) leaves it out of the
gradient of the ELBO. What remains vanishes draw by draw as ``q`` becomes the exact posterior, where :math:`\log w` is the
same for every ``z``; the noise of the score does not.

In a bound of several draws the score is weighted by shares that depend on the draws themselves,

.. math::

    s_k = \frac{w_k^{1 - \alpha}}{\sum_j w_j^{1 - \alpha}},

so it cannot be left out: that would be biased. But its mean can be reparameterized once more, since
:math:`E_q[f(z)\, \partial_\phi \log q_\phi(z)] = E_q[\partial_z f(z)\, \partial_\phi z]` for any :math:`f`. With
:math:`\partial s_k / \partial z_k = (1 - \alpha)\, s_k (1 - s_k)\, \partial \log w_k / \partial z_k` what comes out is

.. math::

    \sum_k \bigl(\alpha s_k + (1 - \alpha)\, s_k^2\bigr)
        \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial\phi},

an unbiased estimate of the same gradient. With :math:`\alpha = 0` it is the **doubly reparameterized** gradient of the
importance-weighted bound (DReG; Tucker, Lawson, Gu and Maddison, 2019). With :math:`\alpha = 1` it is sticking the landing, and
for Renyi's bounds it is what lies between. The gradient for the parameters of the model is in each case the plain
:math:`\sum_k s_k\, \partial_\theta \log p_\theta(x, z_k)`.

How a draw's change of variables depends on it is a part of :math:`\partial \log w_k / \partial z_k`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from amortvi.errors import OptionError
from amortvi.families import Family
from amortvi.objectives.weights import LogWeights

__all__ = ["GradientForm", "checked_gradient", "doubly_reparameterized", "held_fixed"]

GradientForm: TypeAlias = Literal["plain", "dreg"]
"""The gradient of a bound of several draws: as automatic differentiation gives it, or doubly reparameterized."""


def checked_gradient(gradient: GradientForm) -> GradientForm:
    """Return ``gradient`` if it is one, else raise `OptionError`."""
    if gradient not in get_args(GradientForm):
        raise OptionError(f"gradient must be 'plain' or 'dreg'; got {gradient!r}.")
    return gradient


class _Density(nn.Module):
    """The density of a family's distributions as a module, whose parameters are those of the family."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def forward(self, parameters: Tensor, vector: Tensor) -> Tensor:
        log_prob: Tensor = self.family.distribution(parameters).log_prob(vector)
        return log_prob


def held_fixed(family: Family, parameters: Tensor) -> Callable[[Tensor], Tensor]:
    """Return ``log q`` as a function of the draws whose gradient is for them alone.

    Args:
        family: what the posteriors are of; it may have parameters beside those that its head gives an observation.
        parameters: of the posteriors, ``(B, P)``.

    Returns:
        A function from ``(K, B, D)`` to ``(K, B)``.
    """
    density = _Density(family)
    fixed = {name: parameter.detach() for name, parameter in density.named_parameters()}
    return lambda vector: functional_call(density, fixed, (parameters.detach(), vector))


def doubly_reparameterized(weights: LogWeights, order: float) -> Tensor:
    """Return what has the doubly reparameterized gradient of Renyi's bound, ``(B,)``; its value means nothing.

    What comes back to the draws is multiplied on its way to the posterior, so the gradient must be asked for once, of all
    that the draws were used for.

    Args:
        weights: of draws that were scored under a posterior that is `held_fixed`.
        order: ``alpha``.
    """
    shares = torch.softmax((1 - order) * weights.log_weight.detach(), dim=0)
    if weights.vector.requires_grad:
        # Each draw has one share in the gradient for the model; this is the rest of the posterior's.
        factors = (order + (1 - order) * shares).unsqueeze(-1)
        weights.vector.register_hook(lambda gradient: factors * gradient)
    return (shares * weights.log_weight).sum(0)
