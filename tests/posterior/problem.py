"""A model whose posteriors are known, and checks of draws against exact distributions."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace

from amortvi.families import ParametricFamily
from tests.exact import linear_gaussian

MODEL = linear_gaussian()
X = MODEL.simulate(200, seed=1)
EXACT = MODEL.posterior(X)
EVIDENCE = MODEL.log_evidence(X).numpy()
WIDEN = math.sqrt(3)
"""The factor by which the standard deviations of the ``wide`` posterior exceed the exact ones."""


def assert_gaussian(draws: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """``draws``, along the first dimension, have this mean and covariance within Monte Carlo error."""
    count = draws.shape[0]
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(0) - mean) / scale * math.sqrt(count)).abs().max() < 5
    whitened = (draws - mean) / scale
    found = torch.einsum("s...i,s...j->...ij", whitened, whitened) / count
    assert (found - covariance / scale[..., :, None] / scale[..., None, :]).abs().max() < 5 * math.sqrt(2 / count)


class LogNormal(nn.Module):
    """The parameters of a log-normal posterior of a Poisson rate: the median ``(x + a) / b`` and the log scale."""

    def __init__(self, scale: float, a: float, b: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([((x + self.a) / self.b).log(), self.log_scale.expand_as(x)], dim=-1)


class Laplaces(ParametricFamily):
    """Independent Laplace distributions, which are not transformations of normal noise."""

    @property
    def num_parameters(self) -> int:
        return 2 * self.dim

    def distribution(self, parameters: Tensor) -> Distribution:
        loc, log_scale = parameters.chunk(2, dim=-1)
        return Independent(Laplace(loc, log_scale.exp()), 1)
