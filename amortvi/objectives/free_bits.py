r"""Free bits (Kingma et al., 2016): a KL below an allowance costs nothing.

Latents that the decoder does not use yet cost their whole KL and bring nothing, so the fit throws them away. With
``lambda`` nats of each latent dimension free of charge, in the mean over the minibatch, it has no reason to:

.. math::

    \sum_j \max\Bigl(\lambda,\; \frac1B \sum_i \mathrm{KL}\bigl(q_j(z_j \mid x_i) \,\|\, N(0, 1)\bigr)\Bigr)
    + \frac1B \sum_i T_i,
    \qquad
    T_i = \mathrm{KL}\bigl(q(z \mid x_i) \,\|\, N(0, I)\bigr) - \sum_j \mathrm{KL}\bigl(q_j(z_j \mid x_i) \,\|\, N(0, 1)\bigr).

:math:`q_j` is the marginal of a dimension. :math:`T_i \ge 0`, the total correlation of the posterior, is what its dimensions tell
of one another: nothing in a diagonal family, which is the one of the paper. No dimension is to blame for it, and it is not free.

That needs marginals whose KL is known. Where it is not, the whole KL has the allowance of all its ``D`` dimensions:
:math:`\max(\lambda D,\, \frac1B \sum_i \mathrm{KL}_i)`.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

__all__ = ["charged_by_dimension", "charged_in_all"]


def charged_by_dimension(kl: Tensor, posterior: Distribution, free: float) -> Tensor:
    """Return what each observation is charged for its KL, ``(B,)``: right in the mean over the batch.

    Args:
        kl: ``KL(q || N(0, I))`` of each observation, ``(B,)``.
        posterior: with Gaussian marginals, batch shape ``(B,)``, event shape ``(D,)``.
        free: nats of each dimension that are not charged.
    """
    marginal = 0.5 * (posterior.variance + posterior.mean.square() - 1 - posterior.variance.log())
    return kl - marginal.sum(-1) + marginal.mean(0).clamp(min=free).sum()


def charged_in_all(kl: Tensor, dim: int, free: float) -> Tensor:
    """Return what each observation is charged for its KL, ``(B,)``: right in the mean over the batch.

    Args:
        kl: of each observation, ``(B,)``.
        dim: ``D``.
        free: nats of each dimension that are not charged.
    """
    return kl.mean().clamp(min=free * dim).expand_as(kl)
