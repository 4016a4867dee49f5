"""Log weights of draws from given posteriors, and the bounds of the log evidence that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from amortvi._chunks import Gathered
from amortvi.data_check import check_data
from amortvi.generative import GenerativeModel
from amortvi.posterior import Posterior
from amortvi.weighing import Weighed, weigh_batch, weighing, weighing_tile

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate", "weigh"]


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
    with weighing(model):
        gathered = Gathered(posterior.size, observation_dim)
        tile = weighing_tile(model, prototype, posterior.of, posterior.first(), draws)
        for batch, q in posterior.chunks(tile.numbers_per_observation):
            check_data(model, batch)
            weighed = weigh_batch(model, prototype, batch, q, draws, at_once=tile.draws, keep_draws=keep_draws)
            gathered.add(reduce(weighed))
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
