"""Models with latents of many shapes and supports, in nested and subsampled plates."""

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from tests.any_models.data import FEATURES, FULL, LATENTS, padded, standard


def many_supports(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", standard())
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((FEATURES,), 3.0)))
        level = pyro.sample("level", dist.Uniform(torch.full((2,), -1.0), torch.tensor([2.0, 3.0])).to_event(1))
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        factor = pyro.sample("factor", dist.LKJCholesky(2, 1.5))
        loc = padded(z) + rate.unsqueeze(-1) * weights + (level.sum(-1) + share + factor[..., 1, 0]).unsqueeze(-1)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def lower_triangle(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        factor = pyro.sample("factor", dist.LKJCholesky(FEATURES, 2.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(FEATURES), 0.5).to_event(1))
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(FEATURES), scale_tril=scale.unsqueeze(-1) * factor), obs=x)


def without_event_dim(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand((*z.shape, FEATURES)), 0.5).to_event(1), obs=x)


def two_event_dims(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, FEATURES), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.prod(-2), 0.5).to_event(1), obs=x)


def one_on_another(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        scale = pyro.sample("spread", dist.LogNormal(top, 0.3))
        loc = top.unsqueeze(-1).expand((*top.shape, LATENTS))
        z = pyro.sample("z", dist.Normal(loc, scale.unsqueeze(-1)).to_event(1))
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def a_chain(x: Tensor) -> None:
    """A state-space model inside the data plate."""
    with pyro.plate("data", x.shape[0]):
        state = x.new_zeros(())
        for t in pyro.markov(range(FEATURES)):
            state = pyro.sample(f"z_{t}", dist.Normal(0.8 * state, 1.0))
            pyro.sample(f"x_{t}", dist.Normal(state, 0.5), obs=x[:, t])


def a_loop_inside(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        for t in pyro.plate("parts", FEATURES):
            z = pyro.sample(f"z_{t}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[:, t])


def nested_right(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("parts", FEATURES, dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(level + rate, 0.7), obs=x)


def nested_left(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        level = pyro.sample("level", standard())
        with pyro.plate("parts", FEATURES, dim=-2):
            z = pyro.sample("z", dist.Normal(level, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x.mT)


def nested_around(x: Tensor) -> None:
    """The data plate is in the middle, and the plate to its right is entered before it."""
    parts = pyro.plate("parts", FEATURES, dim=-1)
    repeats = pyro.plate("repeats", 2, dim=-3)
    with parts, pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with repeats:
            w = pyro.sample("w", dist.Exponential(2.0))
            pyro.sample("x", dist.Normal(z + w, 0.7), obs=x.expand(2, *x.shape))


def many_mixtures(x: Tensor) -> None:
    """Mixtures of scalars, vectors, positive numbers and proportions, all with trained weights."""
    logits = pyro.param("logits", torch.tensor([0.5, 0.0, -0.5]))
    which = dist.Categorical(logits=logits)
    with pyro.plate("data", x.shape[0]):
        level = pyro.sample("level", dist.MixtureSameFamily(which, dist.Normal(torch.tensor([-2.0, 0.0, 2.0]), 0.5)))
        vectors = dist.Normal(torch.eye(FEATURES)[:, :LATENTS], 0.5).to_event(1)
        z = pyro.sample("z", dist.MixtureSameFamily(which, vectors))
        rate = pyro.sample("rate", dist.MixtureSameFamily(which, dist.Gamma(torch.arange(1.0, 4.0), 2.0)))
        weights = pyro.sample("weights", dist.MixtureSameFamily(which, dist.Dirichlet(torch.eye(FEATURES) + 2.0)))
        pair = pyro.sample(
            "pair", dist.MixtureOfDiagNormals(torch.eye(FEATURES), torch.ones(FEATURES, FEATURES), logits)
        )
        loc = padded(z) + (level + rate).unsqueeze(-1) + weights + pair
        pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def subsampled(x: Tensor, size: int | None = FULL) -> None:
    with pyro.plate("data", size, subsample=x) if size else pyro.plate("data", len(x)):
        z = pyro.sample("z", standard())
        pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)


def subsampled_in_parts(x: Tensor) -> None:
    """A subsampled data plate, with a subsampled nested plate around the observed site alone."""
    with pyro.plate("data", FULL, subsample=x, dim=-2):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        with pyro.plate("parts", 2 * FEATURES, subsample=torch.arange(FEATURES), dim=-1):
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)
