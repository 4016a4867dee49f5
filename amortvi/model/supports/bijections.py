r"""The bijection to a support: that of PyTorch, except for the simplex.

With the logistic function :math:`\sigma`, stick-breaking maps shifted numbers :math:`x_k` to

.. math::

    y_k = \sigma(x_k) \prod_{j < k} \sigma(-x_j), \qquad
    \log \lvert\det J\rvert = \sum_k \Bigl(\log \sigma(x_k) + \sum_{j \le k} \log \sigma(-x_j)\Bigr).

PyTorch computes :math:`\sigma(-x)` as :math:`1 - \sigma(x)`, which is rounded to multiples of 1e-7, and the determinant from
rounded :math:`y`. So small probabilities were wrong, and far from zero the density was constant instead of falling: the posterior
was improper, and the bound of a wide enough ``q`` unlimited. Sums of logarithms are exact everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import StickBreakingTransform

__all__ = ["StickBreaking", "bijection"]


class StickBreaking(StickBreakingTransform):
    """The stick-breaking map from ``R^(K - 1)`` to ``K`` probabilities, accurate for small ones."""

    def _call(self, x: Tensor) -> Tensor:
        log_part, log_rest = _logarithms(x)
        log_y = F.pad(log_part, (0, 1)) + F.pad(log_rest, (1, 0))
        # A probability that rounds to zero has an infinite density under many priors.
        return log_y.exp().clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        rest = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return y[..., :-1].log() - rest.log() + _offset(rest)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logarithm of the determinant, ``x.shape[:-1]``."""
        log_part, log_rest = _logarithms(x)
        return (log_part + log_rest).sum(-1)


def _logarithms(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the parts that are broken off, relative to what was left, and of what is left, both like ``x``."""
    shifted = x - _offset(x)
    return F.logsigmoid(shifted), F.logsigmoid(-shifted).cumsum(-1)


def _offset(x: Tensor) -> Tensor:
    """Return the shifts by which ``x = 0`` becomes equal probabilities."""
    return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()


def bijection(support: constraints.Constraint) -> Transform:
    """Return the bijection from unconstrained numbers to ``support``.

    Example:
        >>> bijection(constraints.simplex)(torch.zeros(3))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    return StickBreaking() if support is constraints.simplex else biject_to(support)
