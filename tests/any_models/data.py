"""Sizes, data and distributions that the models share."""

from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

ROWS, FEATURES, LATENTS = 12, 3, 2
FULL = 30  # the size of the data set that a subsampled plate declares


def standard(dim: int = LATENTS) -> Any:
    return dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)


def padded(z: Tensor) -> Tensor:
    """Return three features of two latents, for any leading shape."""
    return torch.cat([z, z[..., :1] - z[..., 1:]], dim=-1)


def real() -> Tensor:
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(0))


def positive() -> Tensor:
    return real().abs() + 0.1


def covariate() -> Tensor:
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))


def counts() -> Tensor:
    return torch.poisson(torch.full((ROWS,), 2.0), generator=torch.Generator().manual_seed(2))


def images() -> Tensor:
    return torch.bernoulli(torch.full((ROWS, 1, 4, 4), 0.4), generator=torch.Generator().manual_seed(3))
