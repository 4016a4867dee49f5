r"""The ELBO of each observation as a function of the parameters of its own posterior.

With standard normal noise :math:`\epsilon_k` held fixed it is an ordinary function, which can be maximised to any accuracy
(Giordano, Ingram and Broderick, 2024). What that gives is only as good as the noise stands for the normal distribution, so
the noise is made to have mean zero and covariance one exactly. Then the ELBO of a Gaussian under a Gaussian model is
exact, and what is left comes from how far the posterior is from one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._modes import random_state
from amortvi.families import Family
from amortvi.generative import GenerativeModel
from amortvi.observations import Batch
from amortvi.prototype import Prototype
from amortvi.scoring import LogJoint

__all__ = ["Bound", "Noise", "matched_noise"]


def matched_noise(draws: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return noise in pairs of opposite sign, with mean zero and, where there are enough draws, covariance one exactly.

    Args:
        draws: how many, at least two; an odd number is rounded up.
        dim: ``D``.
        generator: of the random numbers.

    Returns:
        ``(draws, D)``, in double precision.

    Example:
        >>> noise = matched_noise(8, 2, torch.Generator().manual_seed(0))
        >>> torch.allclose(noise.mT @ noise / 8, torch.eye(2, dtype=torch.float64))
        True
    """
    half = torch.randn(-(-draws // 2), dim, generator=generator, dtype=torch.float64)
    if half.shape[0] >= dim:
        orthonormal, triangle = torch.linalg.qr(half)
        # With these signs the frame is uniformly distributed, as the directions of the noise were.
        half = orthonormal * triangle.diagonal().sign() * half.shape[0] ** 0.5
    return torch.cat([half, -half])


@dataclass(frozen=True)
class Noise:
    """What ``K`` draws of each observation are made of.

    Args:
        standard: normal noise, ``(K, D)``, the same for every observation; see `matched_noise`.
        seed: of the draws of a family that is not made of normal noise.
    """

    standard: Tensor
    seed: int

    @classmethod
    def drawn(cls, draws: int, dim: int, generator: torch.Generator) -> Noise:
        """Return noise for ``draws`` draws of ``dim`` numbers."""
        return cls(matched_noise(draws, dim, generator), int(torch.randint(2**31, (), generator=generator)))


class Bound:
    """The ELBO of each observation of a batch, in nats, at given parameters of its posterior.

    Args:
        model: the generative model.
        prototype: its structure.
        family: of the posteriors.
        batch: ``B`` observations.
        whole: parameters of all the observations that these are some of, ``(N, P)``.
        rows: which of them these are, ``(B,)``.
    """

    def __init__(
        self,
        model: GenerativeModel,
        prototype: Prototype,
        family: Family,
        batch: Batch,
        whole: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        self.log_joint = LogJoint(model, prototype, batch)
        self.family = family
        self.batch = batch
        self.whole = whole
        self.rows = torch.arange(len(whole), device=whole.device) if rows is None else rows

    def select(self, rows: Tensor) -> Bound:
        """Return the bound of some of the observations."""
        target = self.log_joint
        chosen = self.batch.take(rows)
        return Bound(target.model, target.prototype, self.family, chosen, self.whole, self.rows[rows])

    def __call__(self, parameters: Tensor, noise: Noise) -> Tensor:
        """Return the ELBO, ``(B,)``, at ``parameters``, ``(B, P)``."""
        posterior = self.family.distribution(parameters)
        vector = self._draws(posterior, parameters, noise)
        return (self.log_joint(vector) - posterior.log_prob(vector)).mean(0)

    def with_gradient(self, parameters: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return the ELBO, ``(B,)``, and its gradient, ``(B, P)``."""
        with torch.enable_grad():
            point = parameters.detach().requires_grad_()
            bound = self(point, noise)
            (gradient,) = torch.autograd.grad(bound.sum(), point)
        return bound.detach(), gradient

    def path_gradient(self, parameters: Tensor, noise: Noise) -> Tensor:
        """Return the gradient ``(B, P)`` along the draws alone, which has no noise where the posterior is exact.

        The part that is left out, the score of the draws, is zero on average (Roeder, Wu and Duvenaud, 2017).
        """
        with torch.enable_grad():
            point = parameters.detach().requires_grad_()
            vector = self._draws(self.family.distribution(point), point, noise)
            log_q = self.family.distribution(point.detach()).log_prob(vector)
            (gradient,) = torch.autograd.grad((self.log_joint(vector) - log_q).mean(0).sum(), point)
        return gradient

    def _draws(self, posterior: Distribution, parameters: Tensor, noise: Noise) -> Tensor:
        draws, dim = noise.standard.shape
        if self.family.takes_noise:
            expanded = noise.standard.to(parameters).unsqueeze(1).expand(draws, self.batch.size, dim)
            return posterior.from_noise(expanded)  # type: ignore[attr-defined]  # the family says so
        # Drawn for all the observations together: the noise of one is then the same whichever others are searched with it.
        whole = self.whole.index_copy(0, self.rows, parameters)
        with random_state(noise.seed, parameters.device):
            return self.family.distribution(whole).rsample(torch.Size([draws]))[:, self.rows]
