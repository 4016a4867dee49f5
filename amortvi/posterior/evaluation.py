"""Bounds of the log evidence of each observation, from the log weights of draws from its posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amortvi._util.lazy import pandas as pd
from amortvi.families import kl_to_standard_normal
from amortvi.posterior.importance_sampling import WeightedDraws
from amortvi.posterior.posterior import Posterior

__all__ = ["evaluate"]


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
