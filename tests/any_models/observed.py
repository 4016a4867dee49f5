"""Models with masked, weighted, several or no observed sites, and with further arguments."""

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor

from tests.any_models.data import FEATURES, LATENTS, padded, standard


def masked(x: Tensor, seen: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("features", FEATURES, dim=-1), poutine.mask(mask=seen):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def a_set(x: Tensor, seen: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).mask(seen).to_event(1), obs=x)


def scaled(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        with poutine.scale(scale=0.3):
            z = pyro.sample("z", standard())
        with poutine.scale(scale=2.5):
            pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_weights(x: Tensor, y: Tensor) -> None:
    """A weight for each observation."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        with poutine.scale(scale=y.exp()[:, 0]):
            pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_factor(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.factor("penalty", -z.abs().sum(-1))
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_factor_alone(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.factor("likelihood", -((x - padded(pyro.sample("z", standard()))) ** 2).sum(-1))


def with_deterministic(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        loc = pyro.deterministic("loc", padded(z), event_dim=1)
        pyro.deterministic("norm", z.square().sum(-1))
        pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def two_observed(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)
        pyro.sample("y", dist.Poisson(z[..., 0].exp()), obs=y)


def with_covariates(x: Tensor, y: Tensor) -> None:
    weight = pyro.param("weight", torch.ones(LATENTS))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(weight * y, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def with_keywords(*, x: Tensor, y: Tensor) -> None:
    with_covariates(x, y)


def mixture(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        components = dist.Normal(torch.stack([padded(z), -padded(z)], dim=-2), 0.5).to_event(1)
        mixing = dist.Categorical(logits=z.new_zeros((*z.shape[:-1], 2)))
        pyro.sample("x", dist.MixtureSameFamily(mixing, components), obs=x)
