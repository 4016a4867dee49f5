"""The architectures and data that competitors are measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import amortvi as avi

__all__ = ["Problem", "large", "small"]

LARGE_IMAGES = 12_800


@dataclass(frozen=True)
class Problem:
    """A VAE with Bernoulli likelihood and ``N(0, I)`` prior: one hidden layer of ReLU units on either side.

    Every competitor trains it in single precision with Adam, on minibatches of the data in an order that is drawn anew for each
    epoch. The last minibatch of an epoch is as large as the data leave it.

    Args:
        x: ``(N, D)``, intensities in [0, 1].
        hidden: units in the hidden layer of encoder and decoder.
        latents: latent dimensions.
        batch_size: observations a step.
        lr: the learning rate.
        notes: what the reader must know of the data.
    """

    x: Tensor
    hidden: int
    latents: int
    batch_size: int
    lr: float = 1e-3
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """``D``."""
        return self.x.shape[1]

    @property
    def steps(self) -> int:
        """Training steps an epoch."""
        return math.ceil(len(self.x) / self.batch_size)


def small(latents: int = 8) -> Problem:
    """Return the digits with a VAE 64-64-``latents``: 23 steps an epoch, in which overhead is all."""
    return Problem(avi.datasets.digits().x_train, hidden=64, latents=latents, batch_size=64)


def large() -> Problem:
    """Return 12,800 images of MNIST with a VAE 784-400-50: 100 steps an epoch, in which arithmetic is most."""
    try:
        x = avi.datasets.mnist().x_train[:LARGE_IMAGES]
        notes: tuple[str, ...] = ()
    except avi.errors.DataError as error:
        generator = torch.Generator().manual_seed(0)
        x = torch.bernoulli(torch.full((LARGE_IMAGES, 784), 0.13), generator=generator)
        notes = (f"random images in place of MNIST, which takes as long. {error}",)
    return Problem(x, hidden=400, latents=50, batch_size=128, notes=notes)
