r"""Free bits (Kingma et al., 2016): a KL below an allowance is not charged.

Latents that the decoder does not use yet cost their whole KL and gain nothing, so the fit prunes them. With ``lambda`` nats
per latent dimension free of charge, averaged over the minibatch, it has no reason to:

.. math::

    \sum_j \max\Bigl(\lambda,\; \frac1B \sum_i \mathrm{KL}\bigl(q_j(z_j \mid x_i) \,\|\, N(0, 1)\bigr)\Bigr)
    + \frac1B \sum_i T_i,
    \qquad
    T_i = \mathrm{KL}\bigl(q(z \mid x_i) \,\|\, N(0, I)\bigr) - \sum_j \mathrm{KL}\bigl(q_j(z_j \mid x_i) \,\|\, N(0, 1)\bigr).

:math:`q_j` is the marginal of a dimension. :math:`T_i \ge 0` is the total correlation of the posterior, which is zero for a
diagonal family, the one in the paper. It belongs to no single dimension and is not free.

This requires marginals whose KL is known. Otherwise the whole KL has the allowance of all its ``D`` dimensions:
:math:`\max(\lambda D,\, \frac1B \sum_i \mathrm{KL}_i)`.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

__all__ = ["charge_per_dimension", "charge_total"]


def charge_per_dimension(kl: Tensor, marginal: Normal, free: float) -> Tensor:
    """Return what each observation is charged for its KL, ``(B,)``; correct on average over the batch.

    Args:
        kl: ``KL(q || N(0, I))`` of each observation, ``(B,)``.
        marginal: the marginals of the posteriors, batch shape ``(B, D)``.
        free: nats per dimension that are not charged.
    """
    variance = marginal.variance
    kl_per_dimension = 0.5 * (variance + marginal.mean.square() - 1 - variance.log())
    return kl - kl_per_dimension.sum(-1) + kl_per_dimension.mean(0).clamp(min=free).sum()


def charge_total(kl: Tensor, dim: int, free: float) -> Tensor:
    """Return what each observation is charged for its KL, ``(B,)``; correct on average over the batch.

    Args:
        kl: the KL of each observation, ``(B,)``.
        dim: ``D``.
        free: nats per dimension that are not charged.
    """
    return kl.mean().clamp(min=free * dim).expand_as(kl)
