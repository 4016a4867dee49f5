"""Models and data on which the defaults of a fit are judged: fixed and trained models, 1 to 50 latents, many likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import amortvi as avi

__all__ = ["PROBLEMS", "RecipeProblem"]


@dataclass(frozen=True)
class RecipeProblem:
    """A model, its data, and an architecture.

    Args:
        model: returns the model with new parameters.
        encoder: returns an encoder with new parameters.
        x: the training data.
        held_out: other data of the same kind.
        is_fixed: whether only the posterior is trained.
    """

    model: Callable[[], Any]
    encoder: Callable[[], nn.Module]
    x: Any
    held_out: Any
    is_fixed: bool = True


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _split(*values: Tensor) -> tuple[Any, Any]:
    """Return the first three quarters and the rest."""
    middle = 3 * len(values[0]) // 4
    first, second = tuple(v[:middle] for v in values), tuple(v[middle:] for v in values)
    return (first[0], second[0]) if len(values) == 1 else (first, second)


def linear_gaussian(latents: int, features: int) -> RecipeProblem:
    """Return probabilistic PCA with known parameters; a linear encoder can be exact."""
    weight = torch.randn(features, latents, generator=_generator())
    model = avi.models.LinearGaussian(weight, scale=0.5)
    x, held_out = _split(model.simulate(1600, seed=1))
    return RecipeProblem(lambda: model, lambda: avi.encoders.MLP(features, []), x, held_out)


def counts_with_exposure() -> RecipeProblem:
    """Return Poisson counts with gamma rates, which the encoder reads raw: the evidence is negative binomial."""
    generator = _generator()
    exposure = torch.exp(1.5 + torch.randn(2400, generator=generator))
    rate = -torch.rand(2400, 2, generator=generator).log().sum(-1)  # Gamma(2, 1)
    counts = torch.poisson(rate * exposure, generator=generator)

    def model(y: Tensor, exposure: Tensor) -> None:
        with pyro.plate("data", len(y)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("y", dist.Poisson(rate * exposure), obs=y)

    return RecipeProblem(lambda: model, lambda: avi.encoders.MLP(2), *_split(counts, exposure))


def heavy_tailed_scale() -> RecipeProblem:
    """Return five normal numbers each, with a half-Cauchy scale, which the encoder reads raw."""
    generator = _generator()
    scale = torch.tan(torch.pi / 2 * torch.rand(2400, 1, generator=generator)).clamp(max=200)
    x = scale * torch.randn(2400, 5, generator=generator)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.HalfCauchy(1.0))
            pyro.sample("x", dist.Normal(0.0, scale.unsqueeze(-1)).expand(x.shape).to_event(1), obs=x)

    return RecipeProblem(lambda: model, lambda: avi.encoders.MLP(5), *_split(x))


def growth_curves() -> RecipeProblem:
    """Return logistic curves with three parameters per subject."""
    time, generator = torch.linspace(0, 10, 12), _generator()

    def curve(z: Tensor) -> Tensor:
        height, rate, middle = (z * torch.tensor([0.5, 0.4, 1.5]) + torch.tensor([2.0, -0.3, 4.0])).split(1, dim=-1)
        return height.exp() * torch.sigmoid(rate.exp() * (time - middle))

    def model(y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(curve(z), 0.3).to_event(1), obs=y)

    y = curve(torch.randn(1600, 3, generator=generator)) + 0.3 * torch.randn(1600, 12, generator=generator)
    return RecipeProblem(lambda: model, lambda: avi.encoders.MLP(12), *_split(y))


def item_response() -> RecipeProblem:
    """Return binary answers to 25 items that load on three abilities."""
    generator = _generator()
    loadings, intercepts = torch.randn(3, 25, generator=generator), torch.randn(25, generator=generator)

    def model(y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=z @ loadings + intercepts).to_event(1), obs=y)

    logits = torch.randn(1600, 3, generator=generator) @ loadings + intercepts
    answers = torch.bernoulli(logits.sigmoid(), generator=generator)
    return RecipeProblem(lambda: model, lambda: avi.encoders.MLP(25), *_split(answers))


def outliers() -> RecipeProblem:
    """Return two locations seen through noise with Student's t distribution with two degrees of freedom."""
    generator = _generator()
    mixing = torch.tensor([[1.0, 0.8, 0.3, 0.0, 0.5, 1.0], [0.9, 1.0, 0.0, 0.4, 0.5, 0.7]])
    noise = torch.randn(1600, 6, generator=generator) / torch.rand(1600, 6, generator=generator).log().neg().sqrt()

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.StudentT(2.0, z @ mixing, 0.3).to_event(1), obs=x)

    x = torch.randn(1600, 2, generator=generator) @ mixing + 0.3 * noise
    return RecipeProblem(lambda: model, lambda: avi.encoders.MLP(6), *_split(x))


def digits(latents: int, decoder: Callable[[int], nn.Module], likelihood: str) -> RecipeProblem:
    """Return a VAE on the digits, trained jointly."""
    data = avi.datasets.digits()
    return RecipeProblem(
        lambda: avi.models.VAE(decoder(latents), latents, likelihood),
        lambda: avi.encoders.MLP(64, [64, 64], activation=nn.Tanh),
        data.x_train,
        data.x_test,
        is_fixed=False,
    )


def count_factors() -> RecipeProblem:
    """Return a Poisson factor model of 30 counts with five factors, trained jointly."""
    generator = _generator()
    loadings = 0.6 * torch.randn(5, 30, generator=generator)
    counts = torch.poisson((1 + torch.randn(1600, 5, generator=generator) @ loadings).exp(), generator=generator)
    x, held_out = _split(counts)
    return RecipeProblem(
        lambda: avi.models.VAE(nn.Linear(5, 30), 5, "poisson"),
        lambda: avi.encoders.MLP(30),
        x,
        held_out,
        is_fixed=False,
    )


def _hidden(activation: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    return lambda latents: nn.Sequential(nn.Linear(latents, 64), activation(), nn.Linear(64, 64))


PROBLEMS: dict[str, Callable[[], RecipeProblem]] = {
    "linear-gaussian-2": lambda: linear_gaussian(2, 3),
    "linear-gaussian-10": lambda: linear_gaussian(10, 20),
    "linear-gaussian-50": lambda: linear_gaussian(50, 100),
    "counts": counts_with_exposure,
    "heavy-tails": heavy_tailed_scale,
    "growth": growth_curves,
    "item-response": item_response,
    "outliers": outliers,
    "digits-linear": lambda: digits(8, lambda latents: nn.Linear(latents, 64), "normal"),
    "digits-tanh": lambda: digits(8, _hidden(nn.Tanh), "normal"),
    "digits-relu": lambda: digits(16, _hidden(nn.ReLU), "bernoulli"),
    "count-factors": count_factors,
}
"""The problems by name."""
