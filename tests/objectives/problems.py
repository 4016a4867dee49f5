"""One-dimensional problems whose bounds are integrals over few dimensions, with a row of parameters for each observation.

The parameters of posterior and model are data: row ``i`` of ``phi`` and ``theta`` belongs to observation ``i``. With many
equal rows, one backward pass gives that many independent estimates of the same gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.families import Diagonal
from amortvi.objectives import Estimate, Objective
from amortvi.posterior import AmortizedGuide

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


def estimate(objective: Objective, guide: AmortizedGuide, *args: Tensor, seed: int | None = None) -> Estimate:
    """Return the estimate of an objective on one batch."""
    with random_state(seed):
        return objective.estimate(guide.model, guide.network, Batch(args))


class RowParameters(nn.Module):
    """Returns location and log scale of each row: its ``phi``, with a share of the model's first parameter added."""

    def __init__(self, shared: float) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([phi[:, 0] + self.shared * theta[:, 0], phi[:, 1]], dim=-1)


def gaussian_model(x: Tensor, phi: Tensor, theta: Tensor) -> None:
    """``z ~ N(theta_0, exp(theta_1))``, ``x | z ~ N(tanh(theta_2 z), exp(theta_3))``."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(theta[:, 0], theta[:, 1].exp()))
        pyro.sample("x", dist.Normal((theta[:, 2] * z).tanh(), theta[:, 3].exp()), obs=x)


def gaussian_log_joint(u: Tensor, x: float, theta: Tensor) -> Tensor:
    prior = -0.5 * ((u - theta[0]) / theta[1].exp()) ** 2 - theta[1] - HALF_LOG_2_PI
    likelihood = -0.5 * ((x - (theta[2] * u).tanh()) / theta[3].exp()) ** 2 - theta[3] - HALF_LOG_2_PI
    return prior + likelihood


def gamma_model(x: Tensor, phi: Tensor, theta: Tensor) -> None:
    """``rate ~ Gamma(exp(theta_0), exp(theta_1))``, ``x | rate ~ Poisson(exp(theta_2) rate)``."""
    with pyro.plate("data", x.shape[0]):
        rate = pyro.sample("rate", dist.Gamma(theta[:, 0].exp(), theta[:, 1].exp()))
        pyro.sample("x", dist.Poisson(theta[:, 2].exp() * rate), obs=x)


def gamma_log_joint(u: Tensor, x: float, theta: Tensor) -> Tensor:
    """The log joint density with respect to ``u = log(rate)``."""
    a, b = theta[0].exp(), theta[1].exp()
    prior = a * theta[1] - torch.lgamma(a) + a * u - b * u.exp()
    rate = theta[2].exp() * u.exp()
    return prior + x * rate.log() - rate - math.lgamma(x + 1)


@dataclass(frozen=True)
class Problem:
    """A model with one latent, and the point at which gradients are computed.

    Args:
        model: called with ``(x, phi, theta)``, one row per observation.
        log_joint: ``log p(x, u)`` of the unconstrained latent.
        x: the observation.
        phi: location and log scale of ``q(u)``.
        theta: the parameters of the model.
        shared: the share of the model's first parameter in the location of ``q``.
    """

    model: Callable[..., None]
    log_joint: Callable[[Tensor, float, Tensor], Tensor]
    x: float
    phi: tuple[float, ...]
    theta: tuple[float, ...]
    shared: float = 0.0

    def gradients(self, objective: Objective, rows: int) -> Tensor:
        """Return independent estimates of the gradient with respect to ``(phi, theta)``, ``(rows, P)``."""
        phi = torch.tensor(self.phi, dtype=torch.float64).repeat(rows, 1).requires_grad_()
        theta = torch.tensor(self.theta, dtype=torch.float64).repeat(rows, 1).requires_grad_()
        x = torch.full((rows,), self.x, dtype=torch.float64)
        guide = AmortizedGuide(self.model, RowParameters(self.shared), Diagonal(head=False))
        guide.setup(x[:2], phi[:2].detach(), theta[:2].detach())
        loss = estimate(objective, guide, x, phi, theta, seed=0).loss(rows)
        return torch.cat(torch.autograd.grad(-rows * loss, [phi, theta]), dim=-1)

    def log_weight(self, noise: Tensor, phi: Tensor | None = None, theta: Tensor | None = None) -> Tensor:
        """Return the log weight of the draw computed from standard normal noise, elementwise."""
        phi = torch.tensor(self.phi, dtype=torch.float64) if phi is None else phi
        theta = torch.tensor(self.theta, dtype=torch.float64) if theta is None else theta
        u = phi[0] + self.shared * theta[0] + phi[1].exp() * noise
        log_q = -0.5 * noise.square() - phi[1] - HALF_LOG_2_PI
        return self.log_joint(u, self.x, theta) - log_q

    def exact_gradient(self, bound: Callable[[Tensor], Tensor], draws: int, nodes: int = 80) -> Tensor:
        """Return the gradient of the mean of ``bound`` by Gauss-Hermite quadrature.

        Args:
            bound: maps log weights, ``(draws, ...)``, to a bound, ``(...)``.
            draws: the number of draws over which the integral extends.
            nodes: the number of nodes per draw.
        """
        points, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
        noise = torch.stack(torch.meshgrid(*[points] * draws, indexing="ij"))
        weight = math.prod(torch.meshgrid(*[weights / weights.sum()] * draws, indexing="ij"))
        phi = torch.tensor(self.phi, dtype=torch.float64, requires_grad=True)
        theta = torch.tensor(self.theta, dtype=torch.float64, requires_grad=True)
        value = (weight * bound(self.log_weight(noise, phi, theta))).sum()
        return torch.cat(torch.autograd.grad(value, [phi, theta]))


PROBLEMS = {
    "learned prior": Problem(gaussian_model, gaussian_log_joint, 0.6, (0.2, -0.5), (0.3, 0.1, 1.2, -0.6)),
    "shared parameters": Problem(gaussian_model, gaussian_log_joint, 0.6, (0.2, -0.5), (0.3, 0.1, 1.2, -0.6), 0.8),
    "constrained latent": Problem(gamma_model, gamma_log_joint, 4.0, (0.4, -0.9), (0.7, 0.2, 0.1)),
}
