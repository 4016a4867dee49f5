r"""Free bits (Kingma et al., 2016): a KL below an allowance is not charged.

Latents that the decoder does not use yet add to the KL without improving the reconstruction, so the fit prunes them. It has no
reason to if :math:`\lambda` nats per latent dimension, averaged over the minibatch, are free of charge:

.. math::

    \sum_j \max\Bigl(\lambda,\; \frac1B \sum_i \mathrm{KL}\bigl(q_j(z_j \mid x_i) \,\|\, N(0, 1)\bigr)\Bigr)
    + \frac1B \sum_i T_i,
    \qquad
    T_i = \mathrm{KL}\bigl(q(z \mid x_i) \,\|\, N(0, I)\bigr) - \sum_j \mathrm{KL}\bigl(q_j(z_j \mid x_i) \,\|\, N(0, 1)\bigr).

Here :math:`q_j` is the marginal of a dimension. :math:`T_i \ge 0` is the total correlation of the posterior, which is not part of
any dimension and not free; it is zero for a diagonal family, the case in the paper. If the KL of the marginals is unknown, the
total KL has the allowance of all ``D`` dimensions: :math:`\max(\lambda D,\, \frac1B \sum_i \mathrm{KL}_i)`.

Both functions return the charge for each observation; only its mean over the batch is meaningful.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

__all__ = ["charge_per_dimension", "charge_total"]


def charge_per_dimension(kl: Tensor, marginal: Normal, free: float) -> Tensor:
    """Return the charge for a KL to ``N(0, I)``, ``(B,)``, with ``free`` nats for each dimension of ``marginal``, ``(B, D)``."""
    variance = marginal.variance
    kl_per_dimension = 0.5 * (variance + marginal.mean.square() - 1 - variance.log())
    return kl - kl_per_dimension.sum(-1) + kl_per_dimension.mean(0).clamp(min=free).sum()


def charge_total(kl: Tensor, dim: int, free: float) -> Tensor:
    """Return the charge for a KL, ``(B,)``, with ``free`` nats for each of ``dim`` dimensions together."""
    return kl.mean().clamp(min=free * dim).expand_as(kl)
