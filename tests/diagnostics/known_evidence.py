"""Models whose evidence is known by quadrature or in closed form, with posteriors of many shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch
from tests.exact import linear_gaussian

SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
"""The standard errors of the eight schools."""


def square(x: Tensor) -> None:
    """Two modes of equal mass, at plus and minus the root of ``x``."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2, 0.2), obs=x)


def absolute(x: Tensor) -> None:
    """Two modes, one of which has two to seven times the mass of the other."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.5, 1.0))
        pyro.sample("x", dist.Normal(z.abs(), 0.2), obs=x)


def two_clusters(x: Tensor) -> None:
    """Two exchangeable means of a mixture: every posterior has two modes of equal mass."""
    with pyro.plate("data", x.shape[0]):
        means = pyro.sample("means", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        parts = dist.Normal(means.unsqueeze(-2).expand(*means.shape[:-1], 8, 2), 0.5)
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts)
        pyro.sample("x", mixture.to_event(1), obs=x)


def schools(x: Tensor) -> None:
    """The funnel: eight schools in the centered parameterization."""
    with pyro.plate("data", x.shape[0]):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0)).unsqueeze(-1)
        tau = pyro.sample("tau", dist.HalfCauchy(5.0)).unsqueeze(-1)
        theta = pyro.sample("theta", dist.Normal(mu.expand(-1, 8), tau).to_event(1))
        pyro.sample("y", dist.Normal(theta, SIGMA).to_event(1), obs=x)


def gamma_poisson(x: Tensor) -> None:
    """Conjugate: the posterior is Gamma(4 + x, 3)."""
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Poisson(pyro.sample("rate", dist.Gamma(4.0, 2.0))), obs=x)


def beta_binomial(x: Tensor) -> None:
    """Conjugate, on the unit interval."""
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Binomial(10, pyro.sample("p", dist.Beta(2.0, 3.0))), obs=x)


def dirichlet(x: Tensor) -> None:
    """Conjugate, on a simplex."""
    with pyro.plate("data", x.shape[0]):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([3.0, 4.0, 5.0])))
        pyro.sample("x", dist.Multinomial(20, p), obs=x)


def half_cauchy(x: Tensor) -> None:
    """A scale with a heavy tail."""
    with pyro.plate("data", x.shape[0]):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0)).unsqueeze(-1)
        pyro.sample("x", dist.Normal(torch.zeros_like(x), scale).to_event(1), obs=x)


def student(x: Tensor) -> None:
    """A location with a heavy tail: for an outlier, prior and likelihood conflict."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.StudentT(2.0, 0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def logistic(x: Tensor) -> None:
    """An ability, from the answers to six questions: a skewed posterior if all or none are right."""
    difficulty = torch.linspace(-1.5, 1.5, 6)
    with pyro.plate("data", x.shape[0]):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.5)).unsqueeze(-1)
        pyro.sample("x", dist.Bernoulli(logits=2 * (ability - difficulty)).to_event(1), obs=x)


def unknown_constant(x: Tensor) -> None:
    """Two modes, and a factor, because of which data cannot be simulated."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("x", dist.Normal(z**2, 0.2).log_prob(x))
        pyro.sample("nothing", dist.Normal(torch.zeros_like(x), 1.0), obs=torch.zeros_like(x))


LINEAR = linear_gaussian(3, 5, dtype=torch.float32)


class Squashed(nn.Module):
    """A small encoder of data with heavy tails."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mlp = avi.encoders.MLP(features, [16], activation=nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        context: Tensor = self.mlp(torch.asinh(x))
        return context


@dataclass(frozen=True)
class Known:
    """A model whose evidence is known.

    Args:
        model: the model.
        features: the number of elements of an observation.
        evidence: from an estimator and ``N`` observations to their log evidence, ``(N,)``.
    """

    model: Callable[..., None]
    features: int
    evidence: Callable[[avi.AmortizedVI, Tensor], Tensor]

    def simulate(self, count: int, seed: int) -> Tensor:
        """Return ``count`` observations drawn from the model."""
        x = torch.zeros(count, self.features) if self.features > 1 else torch.zeros(count)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            trace = pyro.poutine.trace(pyro.poutine.uncondition(self.model)).get_trace(x)
        (site,) = [site for name, site in trace.nodes.items() if name in ("x", "y") and site["type"] == "sample"]
        return site["value"]


def by_quadrature(*ends: tuple[float, float], points: int = 4001) -> Callable[[avi.AmortizedVI, Tensor], Tensor]:
    """Return a function that integrates over a grid of unconstrained latents, with ``points`` between each of ``ends``."""
    axes = [torch.linspace(low, high, points) for low, high in ends]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, len(ends))
    log_cell = sum(math.log(float(axis[1] - axis[0])) for axis in axes)

    def evidence(vi: avi.AmortizedVI, x: Tensor) -> Tensor:
        found = []
        with vi.generative.inference_mode():
            for row in x.split(1):
                parts = [vi.generative.log_joint(Batch((row,)), part).double() for part in grid.split(200_000)]
                found.append(torch.cat(parts).logsumexp(0) + log_cell)
        return torch.cat(found)

    return evidence


def schools_evidence(vi: avi.AmortizedVI, x: Tensor) -> Tensor:
    """Integrate over mu and log tau; the effects of the schools are integrated analytically."""
    mu, log_tau = torch.linspace(-40, 40, 401).double(), torch.linspace(-12, 9, 1001).double()
    mu, tau = torch.meshgrid(mu, log_tau.exp(), indexing="ij")
    prior = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfCauchy(5.0).log_prob(tau) + tau.log()
    cell = math.log(80 / 400) + math.log(21 / 1000)
    found = []
    for row in x.double():
        log_joint = prior.clone()
        for effect, sigma in zip(row, SIGMA.double(), strict=True):
            log_joint += dist.Normal(mu, (tau**2 + sigma**2).sqrt()).log_prob(effect)
        found.append(log_joint.flatten().logsumexp(0) + cell)
    return torch.stack(found)


def dirichlet_evidence(vi: avi.AmortizedVI, x: Tensor) -> Tensor:
    return dist.DirichletMultinomial(torch.tensor([3.0, 4.0, 5.0]), 20).log_prob(x).double()


KNOWN = {
    "linear": Known(LINEAR, 5, lambda vi, x: LINEAR.log_evidence(x).double()),
    "square": Known(square, 1, by_quadrature((-6, 6))),
    "absolute": Known(absolute, 1, by_quadrature((-6, 7))),
    "two_clusters": Known(two_clusters, 8, by_quadrature((-10, 10), (-10, 10), points=241)),
    "schools": Known(schools, 8, schools_evidence),
    "gamma_poisson": Known(gamma_poisson, 1, by_quadrature((-12, 6))),
    "beta_binomial": Known(beta_binomial, 1, by_quadrature((-15, 15))),
    "dirichlet": Known(dirichlet, 3, dirichlet_evidence),
    "half_cauchy": Known(half_cauchy, 4, by_quadrature((-15, 15))),
    "student": Known(student, 1, by_quadrature((-60, 60), points=12_001)),
    "logistic": Known(logistic, 6, by_quadrature((-15, 15))),
    "factor": Known(unknown_constant, 1, by_quadrature((-6, 6))),
}
