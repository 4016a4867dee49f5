r"""The ELBO of each observation as a function of the parameters of its posterior.

With fixed standard normal noise it is a deterministic function, which can be maximized to any accuracy (Giordano, Ingram and
Broderick, 2024). The noise has a mean of exactly zero and a covariance of exactly one, so that the ELBO of a Gaussian under a
Gaussian model is exact; for other models the error depends on how far the posterior is from Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.families import Draws, ParametricFamily, TransformedNoise
from amortvi.model import Model

__all__ = ["Noise", "ObservationELBO", "matched_noise"]


def matched_noise(draws: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return antithetic noise ``(draws, D)`` in double precision, with mean zero and, given enough draws, covariance one.

    An odd number of draws is rounded up.

    Example:
        >>> noise = matched_noise(8, 2, torch.Generator().manual_seed(0))
        >>> torch.allclose(noise.mT @ noise / 8, torch.eye(2, dtype=torch.float64))
        True
    """
    half = torch.randn(-(-draws // 2), dim, generator=generator, dtype=torch.float64)
    if half.shape[0] >= dim:
        orthonormal, triangle = torch.linalg.qr(half)
        # With these signs the orthonormal frame is uniformly distributed.
        half = orthonormal * triangle.diagonal().sign() * half.shape[0] ** 0.5
    return torch.cat([half, -half])


@dataclass(frozen=True)
class Noise:
    """The noise of ``K`` draws of each observation.

    Args:
        standard: normal noise, ``(K, noise_dim)``, the same for every observation; see `matched_noise`.
        seed: the seed for distributions that are not transformations of normal noise.
    """

    standard: Tensor
    seed: int

    @classmethod
    def sample(cls, draws: int, dim: int, generator: torch.Generator) -> Noise:
        """Return noise for ``draws`` draws of ``dim`` coordinates."""
        return cls(matched_noise(draws, dim, generator), int(torch.randint(2**31, (), generator=generator)))


@dataclass(frozen=True)
class ObservationELBO:
    """The ELBO of each observation of a batch, in nats, as a function of the parameters of its posterior.

    The ``B`` observations of ``batch`` are at ``rows`` among all observations, whose parameters are ``all_parameters``.
    """

    model: Model
    family: ParametricFamily
    batch: Batch
    all_parameters: Tensor
    rows: Tensor

    def select(self, rows: Tensor) -> ObservationELBO:
        """Return the ELBO of some of the observations."""
        return replace(self, batch=self.batch.take(rows), rows=self.rows[rows])

    def __call__(self, parameters: Tensor, noise: Noise) -> Tensor:
        """Return the ELBO, ``(B,)``, at ``parameters``, ``(B, P)``."""
        q = self.family.distribution(parameters)
        drawn = self._draw(q, parameters, noise)
        return drawn.mean(self.model.log_joint(self.batch, drawn.vector) - q.log_prob(drawn.vector))

    def with_gradient(self, parameters: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return the ELBO, ``(B,)``, and its gradient, ``(B, P)``."""
        with torch.enable_grad():
            point = parameters.detach().requires_grad_()
            elbo = self(point, noise)
            (gradient,) = torch.autograd.grad(elbo.sum(), point)
        return elbo.detach(), gradient

    def path_gradient(self, parameters: Tensor, noise: Noise) -> Tensor:
        """Return the gradient through the draws alone, ``(B, P)``, which has no noise if the posterior is exact.

        The omitted score is zero on average (Roeder, Wu and Duvenaud, 2017).
        """
        with torch.enable_grad():
            point = parameters.detach().requires_grad_()
            drawn = self._draw(self.family.distribution(point), point, noise)
            log_q = self.family.distribution(point.detach()).log_prob(drawn.vector)
            elbo = drawn.mean(self.model.log_joint(self.batch, drawn.vector) - log_q)
            (gradient,) = torch.autograd.grad(elbo.sum(), point)
        return gradient

    def _draw(self, q: Distribution, parameters: Tensor, noise: Noise) -> Draws:
        if isinstance(q, TransformedNoise):
            draws, dim = noise.standard.shape
            return q.from_noise(noise.standard.to(parameters).unsqueeze(1).expand(draws, self.batch.size, dim))
        # Drawn for all observations together, so that the noise of one does not depend on which others have converged.
        everyone = self.all_parameters.index_copy(0, self.rows, parameters)
        with random_state(noise.seed, parameters.device):
            drawn = self.family.distribution(everyone).rsample(noise.standard.shape[:1])
        return Draws(drawn[:, self.rows])
