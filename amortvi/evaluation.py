"""Log weights of draws from given posteriors, and the bounds of the log evidence that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._chunks import Gathered, Tile, spans
from amortvi._modes import evaluation_mode
from amortvi.data_check import check_data
from amortvi.generative import GenerativeModel
from amortvi.objectives import log_weights
from amortvi.observations import Batch
from amortvi.observations.pieces import numbers_per_row
from amortvi.posterior import Posterior

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Weighed", "evaluate", "weigh"]


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


def weigh(
    model: GenerativeModel,
    posterior: Posterior,
    draws: int,
    reduce: Callable[[Weighed], Mapping[str, Tensor]],
    *,
    observation_dim: int = 0,
    keep_draws: bool = False,
) -> dict[str, Tensor]:
    """Draw from the posterior of each observation, weigh the draws, and gather what is made of them.

    However many draws and observations, memory beside the results is bounded by the weights of one chunk of observations.

    Args:
        model: the generative model; it runs in evaluation mode.
        posterior: of the observations.
        draws: ``K``, draws for each observation.
        reduce: what to make of the draws of a chunk.
        observation_dim: where the tensors that ``reduce`` returns have the observations.
        keep_draws: whether ``reduce`` wants the draws themselves.

    Returns:
        The results of all observations, on the CPU.

    Raises:
        DataError: a value is outside the support of the model's likelihood.
    """
    prototype = posterior.prototype

    def run(batch: Batch) -> None:
        log_weights(model, prototype, posterior.of(batch), batch, 1)

    with torch.no_grad(), evaluation_mode(model), pyro.validation_enabled(False), model.own_parameters():
        gathered = Gathered(posterior.size, observation_dim)
        tile = Tile.of(draws, numbers_per_row(run, posterior.first()))
        for batch, q in posterior.chunks(tile.numbers_per_observation):
            check_data(model, batch)
            ratios, weights, vectors = [], [], []
            for span in spans(draws, tile.draws):
                drawn = log_weights(model, prototype, q, batch, len(span))
                # Sums over draws in double precision, on the CPU since not every accelerator has it.
                ratio = drawn.log_ratio.cpu().double()
                ratios.append(ratio)
                weights.append(drawn.log_likelihood.cpu().double() - ratio)
                if keep_draws:
                    vectors.append(drawn.vector.cpu())
            vector = torch.cat(vectors) if keep_draws else None
            gathered.add(reduce(Weighed(batch, q, torch.cat(weights), torch.cat(ratios), vector)))
    return gathered.result()


def evaluate(model: GenerativeModel, posterior: Posterior, particles: int) -> pd.DataFrame:
    """Return bounds of ``log p(x)`` in nats, a row an observation.

    Args:
        model: the generative model.
        posterior: of the observations.
        particles: ``K``, draws for each observation.

    Returns:
        Columns ``elbo``, the mean of the log weights, its Monte Carlo standard error ``elbo_se``, its parts
        ``reconstruction`` and ``kl`` (the KL exact where it is known), and ``iwae``, the tighter bound
        ``log mean_k w_k`` from the same draws (Burda, Grosse and Salakhutdinov, 2016).
    """
    import pandas as pd  # imported where it is used: it would double the time that importing amortvi takes

    exact_kl = posterior.prototype.standard_normal_prior and posterior.family.has_closed_form_kl
    bounds = weigh(model, posterior, particles, lambda weighed: _bounds(weighed, exact_kl))
    columns = {name: value.numpy() for name, value in bounds.items()}
    return pd.DataFrame(columns, index=posterior.index)


def _bounds(weighed: Weighed, exact_kl: bool) -> dict[str, Tensor]:
    log_weight, particles = weighed.log_weight, weighed.log_weight.shape[0]
    # Log weights vary little from draw to draw, not at all for an exact posterior: their mean is a sharper estimate
    # than that of the log-likelihood less an exact KL, which varies even then. An exact KL serves to take it apart.
    elbo, kl = log_weight.mean(0), weighed.log_ratio.mean(0)
    if exact_kl:
        kl = weighed.posterior.kl_standard_normal().cpu().double()  # type: ignore[attr-defined]  # the family says so
    spread = log_weight.std(0) if particles > 1 else torch.full_like(elbo, math.nan)
    return {
        "elbo": elbo,
        "elbo_se": spread / math.sqrt(particles),
        "reconstruction": elbo + kl,
        "kl": kl,
        "iwae": torch.logsumexp(log_weight, dim=0) - math.log(particles),
    }
