"""A linear Gaussian model with labels, of which every posterior is known.

y ~ Categorical(WEIGHTS),  z ~ N(0, I),  x ~ N(LOCS[y] + z LOADINGS, SCALE^2 I)
"""

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import MultivariateNormal

WEIGHTS = torch.tensor([0.2, 0.3, 0.5])
LOCS = torch.tensor([[0.0, 0.0, 0.0], [1.5, -0.5, 1.0], [-1.0, 1.5, 1.0]])
LOADINGS = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.4, 0.8]])
SCALE = 0.6
COVARIANCE = LOADINGS.mT @ LOADINGS + SCALE**2 * torch.eye(3)


def model(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        label = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y.clamp(min=0), obs_mask=y >= 0)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(LOCS[label] + z @ LOADINGS, SCALE).to_event(1), obs=x)


def data(n: int, labelled: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return observations, labels with -1 except for the first ones, and all labels."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    noise = torch.randn(n, 5, generator=generator)
    x = LOCS[true] + noise[:, :2] @ LOADINGS + SCALE * noise[:, 2:]
    return x, true.masked_fill(torch.arange(n) >= labelled, -1), true


def log_joint(x: Tensor) -> Tensor:
    """Return ``log p(x, y)`` for every label, ``(N, 3)``."""
    return WEIGHTS.log() + MultivariateNormal(LOCS, COVARIANCE).log_prob(x.unsqueeze(-2))


def log_evidence(x: Tensor, y: Tensor) -> Tensor:
    """Return ``log p(x, y)`` where the label is known, else ``log p(x)``, ``(N,)``."""
    each = log_joint(x)
    known = each.take_along_dim(y.clamp(min=0).unsqueeze(-1), dim=-1).squeeze(-1)
    return torch.where(y >= 0, known, each.logsumexp(-1))


def posterior_mean(x: Tensor, y: Tensor) -> Tensor:
    """Return ``E[z | x, y]``, ``(N, 2)``."""
    return torch.linalg.solve(COVARIANCE, (x - LOCS[y]).mT).mT @ LOADINGS.mT
