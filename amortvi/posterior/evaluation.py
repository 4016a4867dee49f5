"""Bounds of the log evidence of each observation, and draws of new data, from posteriors and from the model alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.lazy import pandas as pd
from amortvi.data import Batch, Chunk, TensorObservations, map_chunks
from amortvi.families import kl_to_standard_normal
from amortvi.model import Model
from amortvi.posterior.importance_sampling import WeightedDraws
from amortvi.posterior.posterior import Posterior

__all__ = ["evaluate", "predict", "sample_prior"]


def evaluate(posterior: Posterior, particles: int) -> pd.DataFrame:
    """Return bounds of ``log p(x)`` in nats, one row per observation.

    Args:
        posterior: the posterior of each observation.
        particles: ``K``, draws for each observation.

    Returns:
        Columns ``elbo``, the mean log weight, and its Monte Carlo standard error ``elbo_se``; the parts ``reconstruction``
        and ``kl`` of the ELBO (the KL in closed form if it is known); and ``iwae``, the tighter bound
        ``log mean_k w_k`` from the same draws (Burda, Grosse and Salakhutdinov, 2016).
    """
    standard_normal_prior = posterior.model.structure.standard_normal_prior
    bounds = posterior.importance_sample(particles, lambda weighted: _bounds(weighted, standard_normal_prior))
    return pd.DataFrame({name: value.numpy() for name, value in bounds.items()}, index=posterior.index)


def _bounds(weighted: WeightedDraws, standard_normal_prior: bool) -> dict[str, Tensor]:
    log_weight, particles = weighted.log_weight, weighted.log_weight.shape[0]
    # Log weights vary little between draws, and not at all for an exact posterior. Their mean is thus more precise than the
    # mean log-likelihood minus an exact KL, which varies even then. The exact KL only splits the bound into its parts.
    elbo, kl = log_weight.mean(0), weighted.log_ratio.mean(0)
    if standard_normal_prior:
        exact = kl_to_standard_normal(weighted.posterior)
        kl = kl if exact is None else exact.cpu().double()
    spread = log_weight.std(0) if particles > 1 else torch.full_like(elbo, math.nan)
    return {
        "elbo": elbo,
        "elbo_se": spread / math.sqrt(particles),
        "reconstruction": elbo + kl,
        "kl": kl,
        "iwae": torch.logsumexp(log_weight, dim=0) - math.log(particles),
    }


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
