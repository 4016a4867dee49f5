"""The architectures and data on which competitors are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import amortvi as avi

__all__ = ["Problem", "cropped", "large", "small", "whole_batches"]

LARGE_IMAGES = 12_800
CROPPED_IMAGES, CROPPED_PIXELS = 1_260, 48


@dataclass(frozen=True)
class Problem:
    """A VAE with a Bernoulli likelihood, an ``N(0, I)`` prior, and one hidden ReLU layer each in encoder and decoder.

    Every competitor trains it in single precision with Adam, on minibatches that are reshuffled in each epoch. The last
    minibatch of an epoch may be smaller.

    Args:
        x: intensities in [0, 1], ``(N, D)``.
        hidden: units of the hidden layers.
        latents: latent dimensions.
        batch_size: observations per step.
        lr: the learning rate.
        notes: what the report says about the data.
    """

    x: Tensor
    hidden: int
    latents: int
    batch_size: int
    lr: float = 1e-3
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """``D``, the number of pixels."""
        return self.x.shape[1]

    @property
    def steps(self) -> int:
        """Training steps per epoch."""
        return math.ceil(len(self.x) / self.batch_size)


def small(latents: int = 8) -> Problem:
    """Return a VAE 64-64-``latents`` on the digits: 23 steps per epoch, dominated by overhead."""
    return Problem(avi.datasets.digits().x_train, hidden=64, latents=latents, batch_size=64)


def whole_batches(problem: Problem) -> Problem:
    """Return the problem without the observations of the last, smaller batch, so that there is one shape to compile."""
    return replace(problem, x=problem.x[: len(problem.x) // problem.batch_size * problem.batch_size])


def cropped() -> Problem:
    """Return a VAE 48-80-6 on the upper six rows of 1,260 digits: 20 steps per epoch, the last with 44 observations."""
    x = avi.datasets.digits().x_train[:CROPPED_IMAGES, :CROPPED_PIXELS].contiguous()
    return Problem(x, hidden=80, latents=6, batch_size=64)


def large() -> Problem:
    """Return a VAE 784-400-50 on 12,800 images of MNIST: 100 steps per epoch, dominated by arithmetic."""
    try:
        x = avi.datasets.mnist().x_train[:LARGE_IMAGES]
        notes: tuple[str, ...] = ()
    except avi.errors.DataError as error:
        generator = torch.Generator().manual_seed(0)
        x = torch.bernoulli(torch.full((LARGE_IMAGES, 784), 0.13), generator=generator)
        notes = (f"random images instead of MNIST, which take the same time. {error}",)
    return Problem(x, hidden=400, latents=50, batch_size=128, notes=notes)
