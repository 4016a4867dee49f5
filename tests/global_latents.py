"""A hierarchical model in which everything is Gaussian, so that every posterior and every bound is known.

mu ~ N(0, 3^2),  z_i ~ N(mu, 1),  x_i ~ N(z_i, 1)
"""

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi

N = 40
PRIOR_SD = 3.0
PRECISION = 1 / PRIOR_SD**2


def model(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def subsampled(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
    with pyro.plate("data", N, subsample=x):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def data(n: int = N) -> Tensor:
    return 1.5 + math.sqrt(2) * torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


X = data()

EXACT_MEAN = float(X.sum() / 2 / (PRECISION + N / 2))
"""The mean of the posterior of mu, which the mean field finds."""
EXACT_SD = (PRECISION + N / 2) ** -0.5
"""The standard deviation of the posterior of mu: that of N observations with variance 2."""
MEAN_FIELD_SD = (PRECISION + N) ** -0.5
"""The best standard deviation if q(mu) does not depend on the z: the conditional one, as with N observations of z."""


def log_evidence() -> float:
    """Return ``log p(x)`` of all data: the marginal is ``N(0, 2 I + 9 1 1')``."""
    covariance = 2 * torch.eye(N, dtype=X.dtype) + PRIOR_SD**2
    return float(torch.distributions.MultivariateNormal(torch.zeros(N, dtype=X.dtype), covariance).log_prob(X))


def best_mean_field_bound() -> float:
    """Return the largest ELBO of ``q(mu) prod_i q(z_i)``.

    For a Gaussian posterior with precision P, a factorized Gaussian loses ``(log prod(diag P) - log det P) / 2``. Here ``P``
    has ``1 / 9 + N`` for mu, 2 for each z, and -1 between them, so ``det P = 2^N (1 / 9 + N / 2)``.
    """
    return log_evidence() - 0.5 * math.log((PRECISION + N) / (PRECISION + N / 2))


def estimator(program: Callable[..., Any] = model, **options: Any) -> avi.AmortizedVI:
    """Return an estimator whose linear encoder can represent the best posterior."""
    return avi.AmortizedVI(program, Column(), "diagonal", **options)


class Column(torch.nn.Module):
    """An encoder that returns each number as a row of one column, in its own floating-point type."""

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1) * self.unit


def fitted(program: Callable[..., Any] = model, *, global_guide: Any = None, **options: Any) -> avi.AmortizedVI:
    options = {
        "epochs": 700,
        "lr": 0.02,
        "seed": 0,
        "objective": avi.objectives.ELBO(10),
        "progress": False,
        "dtype": torch.float64,
    } | options
    return estimator(program, global_guide=global_guide).fit(X, **options)


def set_by_hand(loc: float, scale: float, z_loc: float = 0.0, z_scale: float = 1.0) -> avi.AmortizedVI:
    """Return an estimator with ``q(mu) = N(loc, scale)`` and ``q(z | x) = N(z_loc, z_scale)``, not trained."""

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor([[z_loc, math.log(z_scale)]], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.value.expand(x.shape[0], -1)

    vi = avi.AmortizedVI(model, Constant(), avi.families.Diagonal(head=False)).to(dtype=torch.float64).setup(X, seed=0)
    guide = vi.guide.network.global_posterior.guide
    with torch.no_grad():
        guide.locs.mu.fill_(loc)
        guide.scales.mu = torch.tensor(scale, dtype=torch.float64)
    return vi
