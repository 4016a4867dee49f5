"""Data, decoders and formulas for the tests of VAEs."""

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

LATENTS, FEATURES, CLASSES = 3, 6, 4


def data(likelihood: str, observations: int = 5, event: tuple[int, ...] = (FEATURES,), seed: int = 0) -> Tensor:
    """Return observations in the support of a likelihood."""
    generator = torch.Generator().manual_seed(seed)
    shape = (observations, *event)
    return {
        "bernoulli": lambda: torch.rand(shape, generator=generator).round(),
        "normal": lambda: torch.randn(shape, generator=generator),
        "categorical": lambda: torch.randint(CLASSES, shape, generator=generator),
        "poisson": lambda: torch.poisson(torch.full(shape, 2.0), generator=generator),
    }[likelihood]()


def log_probs(model: Any, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log densities of prior and likelihood of each observation."""
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    return trace.nodes["z"]["log_prob"], trace.nodes["x"]["log_prob"]


def formula(likelihood: str, decoded: Tensor, x: Tensor) -> Tensor:
    """Return the log density of each entry, from its formula."""
    if likelihood == "bernoulli":
        return x * decoded.sigmoid().log() + (1 - x) * (1 - decoded.sigmoid()).log()
    if likelihood == "normal":
        return -0.5 * ((x - decoded) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    if likelihood == "poisson":
        return x * decoded - decoded.exp() - torch.lgamma(x + 1)
    return decoded.softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1).log()


class Classes(nn.Module):
    """A decoder with the classes as its last dimension."""

    def __init__(self, *event: int) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENTS, math.prod(event) * CLASSES)
        self.event = event

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).reshape(z.shape[0], *self.event, CLASSES)
