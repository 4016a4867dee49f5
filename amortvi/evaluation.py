"""Bounds of the log evidence of each observation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor

from amortvi._chunks import rows_at_once, spans
from amortvi._modes import evaluation_mode
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives import log_weights
from amortvi.observations import Batch, Observations
from amortvi.predictive import draws_at_once

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate"]


def evaluate(
    model: GenerativeModel,
    guide: AmortizedGuide,
    observations: Observations,
    particles: int,
    device: torch.device,
) -> pd.DataFrame:
    """Return bounds of ``log p(x)`` in nats, a row an observation.

    Args:
        model: the generative model.
        guide: a guide that is set up.
        observations: the observations.
        particles: ``K``, draws for each observation.
        device: where to compute.

    Returns:
        Columns ``elbo``, its Monte Carlo standard error ``elbo_se``, its parts ``reconstruction`` and ``kl``, and
        ``iwae``, the tighter bound ``log mean_k w_k`` from the same draws (Burda, Grosse and Salakhutdinov, 2016).
    """
    import pandas as pd  # imported where it is used: it would double the time that importing amortvi takes

    rows = observations.batch_size_up_to(rows_at_once(max(guide.family.num_parameters, guide.latents.dim)))
    parts = []
    with (
        torch.no_grad(),
        evaluation_mode(model, guide),
        pyro.validation_enabled(False),
        model.own_parameters(),
    ):
        for batch in observations.batches(None if rows is None else min(rows, 1024)):
            parts.append(_evaluate_batch(model, guide, batch.to(device), particles))
    columns = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return pd.DataFrame(columns, index=observations.index)


def _evaluate_batch(model: GenerativeModel, guide: AmortizedGuide, batch: Batch, particles: int) -> dict[str, Tensor]:
    likelihoods, ratios = [], []
    for span in spans(particles, draws_at_once(batch)):
        weights = log_weights(model, guide, batch, len(span))
        likelihoods.append(weights.log_likelihood)
        ratios.append(weights.log_ratio)
    log_likelihood, log_ratio = torch.cat(likelihoods).double(), torch.cat(ratios).double()
    kl = log_ratio.mean(0)
    # The draws that the standard error is over: with an exact KL only the reconstruction is noisy.
    terms = log_likelihood - log_ratio
    if guide.prototype.standard_normal_prior and guide.family.has_closed_form_kl:
        posterior = guide.get_posterior(*batch.args, **batch.kwargs)
        kl = posterior.kl_standard_normal().double()  # type: ignore[attr-defined]  # the family says that it has one
        terms = log_likelihood - kl
    iwae = torch.logsumexp(log_likelihood - log_ratio, dim=0) - math.log(particles)
    spread = terms.std(0) if particles > 1 else torch.full_like(kl, math.nan)
    columns = {
        "elbo": terms.mean(0),
        "elbo_se": spread / math.sqrt(particles),
        "reconstruction": log_likelihood.mean(0),
        "kl": kl,
        "iwae": iwae,
    }
    return {name: value.cpu() for name, value in columns.items()}
