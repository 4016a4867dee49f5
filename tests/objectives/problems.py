"""One-dimensional problems whose bounds are integrals of a few dimensions, and a row of parameters for each observation.

The parameters of posterior and model come as data: row ``i`` of ``phi`` and ``theta`` belongs to observation ``i``. With
many equal rows one backward pass gives as many independent estimates of one gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi import families, objectives
from amortvi._util.modes import random_state
from amortvi.model.program import GenerativeModel
from amortvi.posterior.guide import AmortizedGuide
from amortvi.data import Batch

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class OwnParameters(nn.Module):
    """Location and log scale of a row are its ``phi``; the location moves with the model's first parameter as well."""

    def __init__(self, shared: float) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor, phi: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([phi[:, 0] + self.shared * theta[:, 0], phi[:, 1]], dim=-1)


def gaussian_model(x: Tensor, phi: Tensor, theta: Tensor) -> None:
    """``z ~ N(theta_0, exp(theta_1))``, ``x | z ~ N(tanh(theta_2 z), exp(theta_3))``: a learned prior, a bent likelihood."""
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
    """As a density of ``u = log(rate)``."""
    a, b = theta[0].exp(), theta[1].exp()
    prior = a * theta[1] - torch.lgamma(a) + a * u - b * u.exp()
    rate = theta[2].exp() * u.exp()
    return prior + x * rate.log() - rate - math.lgamma(x + 1)


@dataclass(frozen=True)
class Problem:
    """A model with one latent, and a point at which gradients are taken.

    Args:
        model: takes ``(x, phi, theta)``, a row an observation.
        log_joint: ``log p(x, u)`` of the unconstrained latent.
        x: the observation.
        phi: location and log scale of ``q(u)``.
        theta: the parameters of the model.
        shared: how much of the model's first parameter is in the location of ``q``.
    """

    model: Callable[..., None]
    log_joint: Callable[[Tensor, float, Tensor], Tensor]
    x: float
    phi: tuple[float, ...]
    theta: tuple[float, ...]
    shared: float = 0.0

    def gradients(self, objective: objectives.Objective, rows: int, seed: int = 0) -> Tensor:
        """Independent estimates of the gradient for ``(phi, theta)``, ``(rows, P)``."""
        phi = torch.tensor(self.phi, dtype=torch.float64).repeat(rows, 1).requires_grad_()
        theta = torch.tensor(self.theta, dtype=torch.float64).repeat(rows, 1).requires_grad_()
        x = torch.full((rows,), self.x, dtype=torch.float64)
        family = partial(families.Diagonal, head=False)
        guide = AmortizedGuide(self.model, OwnParameters(self.shared), family)
        with random_state(seed):
            guide.setup(x, phi.detach(), theta.detach())
            estimate = objective.estimate(GenerativeModel(self.model), guide, Batch((x, phi, theta)))
            found = torch.autograd.grad(-rows * estimate.loss(rows), [phi, theta])
        return torch.cat(found, dim=-1)

    def log_weight(self, noise: Tensor, phi: Tensor | None = None, theta: Tensor | None = None) -> Tensor:
        """The log weight of the draw that standard normal noise makes, number by number."""
        phi = torch.tensor(self.phi, dtype=torch.float64) if phi is None else phi
        theta = torch.tensor(self.theta, dtype=torch.float64) if theta is None else theta
        u = phi[0] + self.shared * theta[0] + phi[1].exp() * noise
        log_q = -0.5 * noise.square() - phi[1] - HALF_LOG_2_PI
        return self.log_joint(u, self.x, theta) - log_q

    def exact_gradient(self, bound: Callable[[Tensor], Tensor], draws: int, nodes: int = 80) -> Tensor:
        """The gradient of the mean of ``bound``, a function of log weights ``(draws, ...)``, by Gauss-Hermite quadrature."""
        points, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
        noise = torch.stack(torch.meshgrid(*[points] * draws, indexing="ij"))
        weight = math.prod(torch.meshgrid(*[weights / weights.sum()] * draws, indexing="ij"))
        phi = torch.tensor(self.phi, dtype=torch.float64, requires_grad=True)
        theta = torch.tensor(self.theta, dtype=torch.float64, requires_grad=True)
        value = (weight * bound(self.log_weight(noise, phi, theta))).sum()
        return torch.cat(torch.autograd.grad(value, [phi, theta]))


PROBLEMS = {
    "a learned prior": Problem(gaussian_model, gaussian_log_joint, 0.6, (0.2, -0.5), (0.3, 0.1, 1.2, -0.6)),
    "shared parameters": Problem(gaussian_model, gaussian_log_joint, 0.6, (0.2, -0.5), (0.3, 0.1, 1.2, -0.6), 0.8),
    "a constrained latent": Problem(gamma_model, gamma_log_joint, 4.0, (0.4, -0.9), (0.7, 0.2, 0.1)),
}
