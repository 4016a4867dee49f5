"""Draws of new data given observations, and draws from the model alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi.data import Batch, Chunk, TensorObservations, map_chunks
from amortvi.model import Model
from amortvi.posterior.posterior import Posterior

__all__ = ["predict", "sample_prior"]


def predict(posterior: Posterior, draws: int) -> dict[str, Tensor]:
    """Draw new data for each observation from the posterior predictive distribution.

    Args:
        posterior: of ``N`` observations.
        draws: the number of draws for each.

    Returns:
        For each observed (and deterministic) site in the data plate ``(draws, N, *nested, *event)``, on the CPU.
    """
    model = posterior.model

    def compute(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        values, _ = model.latents.constrain(q.sample(torch.Size([chunk.draws])))
        return model.simulate(chunk.batch, values, chunk.draws, draws_at_once=chunk.draws_at_once)

    return posterior.map_chunks(compute, draws=draws, observation_dim=1)


def sample_prior(model: Model, source: Batch, draws: int, device: torch.device) -> dict[str, Tensor]:
    """Draw latents and data from the model alone.

    Args:
        model: the generative model.
        source: observations whose sizes and covariates are used, cyclically.
        draws: the number of draws.
        device: where the model is.

    Returns:
        For each site in the data plate ``(draws, *nested, *event)``, on the CPU.
    """
    rows = TensorObservations(source.arguments().take(torch.arange(draws) % source.size), "x")

    def compute(chunk: Chunk) -> Mapping[str, Tensor]:
        return {name: value[0] for name, value in model.simulate(chunk.batch, None, 1).items()}

    with model.inference_mode():
        return map_chunks(rows, compute, device=device)
