"""Draws from given posteriors, with their log weights under the model: a batch of observations at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._chunks import Tile, spans
from amortvi._modes import evaluation_mode
from amortvi.generative import GenerativeModel
from amortvi.objectives import log_weights
from amortvi.observations import Batch
from amortvi.observations.pieces import numbers_per_row
from amortvi.prototype import Prototype

__all__ = ["Weighed", "weigh_batch", "weighing", "weighing_tile"]


@dataclass(frozen=True)
class Weighed:
    """Draws from the posteriors of a batch, with their weights.

    Args:
        batch: ``B`` observations.
        posterior: their posteriors, batch shape ``(B,)``.
        log_weight: ``log p(x, z) - log q(z | x)``, ``(K, B)``, on the CPU in double precision.
        log_ratio: ``log q(z | x) - log p(z)``, ``(K, B)``, on the CPU in double precision.
        vector: the draws, unconstrained, ``(K, B, D)``, on the CPU, where they were asked for.
    """

    batch: Batch
    posterior: Distribution
    log_weight: Tensor
    log_ratio: Tensor
    vector: Tensor | None


@contextlib.contextmanager
def weighing(model: GenerativeModel) -> Iterator[None]:
    """What draws are weighed in: the model in evaluation mode, no gradients, data checked before and not at each site."""
    with torch.no_grad(), evaluation_mode(model), pyro.validation_enabled(False), model.own_parameters():
        yield


def weighing_tile(
    model: GenerativeModel, prototype: Prototype, of: Callable[[Batch], Distribution], example: Batch, draws: int
) -> Tile:
    """Return what to weigh at once, inside `weighing`.

    Args:
        model: the generative model.
        prototype: its structure.
        of: gives the posteriors of a batch.
        example: any observations, on the device.
        draws: draws of each observation in all.
    """

    def run(batch: Batch) -> None:
        log_weights(model, prototype, of(batch), batch, 1)

    return Tile.of(draws, numbers_per_row(run, example))


def weigh_batch(
    model: GenerativeModel,
    prototype: Prototype,
    batch: Batch,
    posterior: Distribution,
    draws: int,
    *,
    at_once: int,
    keep_draws: bool = False,
) -> Weighed:
    """Draw from the posterior of each observation of a batch and weigh the draws, inside `weighing`.

    Args:
        model: the generative model.
        prototype: its structure.
        batch: ``B`` observations, on the device, whose data were checked.
        posterior: their posteriors.
        draws: ``K``, draws of each observation.
        at_once: how many of them the model is given at once.
        keep_draws: whether the draws themselves are wanted.
    """
    ratios, weights, vectors = [], [], []
    for span in spans(draws, at_once):
        drawn = log_weights(model, prototype, posterior, batch, len(span))
        # Sums over draws in double precision, on the CPU since not every accelerator has it.
        ratio = drawn.log_ratio.cpu().double()
        ratios.append(ratio)
        weights.append(drawn.log_likelihood.cpu().double() - ratio)
        if keep_draws:
            vectors.append(drawn.vector.cpu())
    vector = torch.cat(vectors) if keep_draws else None
    return Weighed(batch, posterior, torch.cat(weights), torch.cat(ratios), vector)
