r"""Gradients that go through the draws and omit the score of the posterior.

With reparameterized draws :math:`z_k(\phi)`, a log weight depends on the parameters :math:`\phi` of the posterior in two
ways, through the draw and through the density of ``q``:

.. math::

    \frac{d \log w_k}{d\phi}
        = \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial\phi}
        - \frac{\partial \log q_\phi(z_k)}{\partial\phi}.

The second term, the score, is zero on average. **Sticking the landing** (Roeder, Wu and Duvenaud, 2017) omits it from the
gradient of the ELBO. The remaining term vanishes for each draw as ``q`` becomes the exact posterior, for which
:math:`\log w` is constant; the score does not.

In a bound of several draws the score is weighted by factors that depend on the draws themselves,

.. math::

    s_k = \frac{w_k^{1 - \alpha}}{\sum_j w_j^{1 - \alpha}},

so omitting it would introduce a bias. However, its mean can be reparameterized again, because
:math:`E_q[f(z)\, \partial_\phi \log q_\phi(z)] = E_q[\partial_z f(z)\, \partial_\phi z]` for any :math:`f`. With
:math:`\partial s_k / \partial z_k = (1 - \alpha)\, s_k (1 - s_k)\, \partial \log w_k / \partial z_k` the result is

.. math::

    \sum_k \bigl(\alpha s_k + (1 - \alpha)\, s_k^2\bigr)
        \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial\phi},

an unbiased estimate of the same gradient. With :math:`\alpha = 0` it is the **doubly reparameterized** gradient of the
importance-weighted bound (DReG; Tucker, Lawson, Gu and Maddison, 2019), with :math:`\alpha = 1` it is sticking the landing; other
orders give Renyi's bounds. The gradient of the model's parameters is always the plain
:math:`\sum_k s_k\, \partial_\theta \log p_\theta(x, z_k)`. The Jacobian of a transformed latent is part of
:math:`\partial \log w_k / \partial z_k`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from amortvi.errors import OptionError
from amortvi.families import Family, has_fast_density
from amortvi.posterior import LogWeights

__all__ = ["GradientForm", "check_gradient", "doubly_reparameterized", "stop_score_gradient", "uses_dreg"]

GradientForm: TypeAlias = Literal["auto", "dreg", "plain"]
"""The gradient of a bound of several draws: doubly reparameterized, or from plain automatic differentiation. ``"auto"`` is the
first, except for a mixture, whose draws are stratified, and a flow, for which the density of given draws is slow."""


def check_gradient(gradient: GradientForm) -> GradientForm:
    """Return ``gradient`` if it is a `GradientForm`, else raise `OptionError`."""
    if gradient not in get_args(GradientForm):
        raise OptionError(f"gradient must be 'auto', 'dreg' or 'plain'; got {gradient!r}.")
    return gradient


def uses_dreg(gradient: GradientForm, q: Distribution) -> bool:
    """Return whether the gradient of a bound of several draws from ``q`` is doubly reparameterized.

    Raises:
        OptionError: that was chosen, but the draws of ``q`` are not differentiable functions of its parameters.
    """
    if gradient == "dreg" and not q.has_rsample:
        raise OptionError(
            f"gradient='dreg' is not possible for a {type(q).__name__}, whose draws are stratified by component: use "
            f"gradient='auto' or gradient='plain'."
        )
    return gradient == "dreg" or (gradient == "auto" and q.has_rsample and has_fast_density(q))


def stop_score_gradient(family: Family, context: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function from draws, ``(K, B, D)``, to ``log q``, ``(K, B)``, without a gradient for context and family."""
    density = _Density(family)
    detached = {name: parameter.detach() for name, parameter in density.named_parameters()}
    return lambda vector: functional_call(density, detached, (context.detach(), vector))


class _Density(nn.Module):
    """``log q`` as a single call, because the distributions of a flow evaluate its network only in `log_prob`."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    def forward(self, context: Tensor, vector: Tensor) -> Tensor:
        log_q: Tensor = self.family(context).log_prob(vector)
        return log_q


def doubly_reparameterized(weights: LogWeights, order: float) -> Tensor:
    """Return a quantity, ``(B,)``, with the doubly reparameterized gradient of Renyi's bound; its value has no meaning.

    A hook rescales the gradient of the draws, so all uses of the draws must be differentiated together. The ``log q`` in
    ``weights`` must come from `stop_score_gradient`; ``order`` is ``alpha``.
    """
    shares = torch.softmax((1 - order) * weights.log_weight.detach(), dim=0)
    vector = weights.drawn.vector
    if vector.requires_grad:
        # The gradients of model and posterior share one factor s_k per draw; the posterior has these in addition.
        factors = (order + (1 - order) * shares).unsqueeze(-1)
        vector.register_hook(lambda gradient: factors * gradient)
    return (shares * weights.log_weight).sum(0)
