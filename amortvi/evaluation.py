"""Bounds of the log evidence of each observation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor

from amortvi._chunks import Gathered, Tile, spans
from amortvi._modes import evaluation_mode
from amortvi.data_check import check_data
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives import log_weights
from amortvi.observations import Batch, Observations
from amortvi.observations.pieces import numbers_per_row, pieces

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
        Columns ``elbo``, the mean of the log weights, its Monte Carlo standard error ``elbo_se``, its parts
        ``reconstruction`` and ``kl`` (the KL exact where it is known), and ``iwae``, the tighter bound
        ``log mean_k w_k`` from the same draws (Burda, Grosse and Salakhutdinov, 2016).
    """
    import pandas as pd  # imported where it is used: it would double the time that importing amortvi takes

    gathered = Gathered(observations.size)
    with torch.no_grad(), evaluation_mode(model, guide), pyro.validation_enabled(False), model.own_parameters():
        example = observations.first(1).to(device)
        tile = Tile.of(particles, numbers_per_row(lambda batch: log_weights(model, guide, batch, 1), example))
        for batch in pieces(observations, tile.observations, device):
            check_data(model, batch)
            gathered.add(_evaluate_batch(model, guide, batch, particles, tile.draws))
    columns = {name: value.numpy() for name, value in gathered.result().items()}
    return pd.DataFrame(columns, index=observations.index)


def _evaluate_batch(
    model: GenerativeModel, guide: AmortizedGuide, batch: Batch, particles: int, at_once: int
) -> dict[str, Tensor]:
    ratios, weights = [], []
    for span in spans(particles, at_once):
        drawn = log_weights(model, guide, batch, len(span))
        # Sums over draws in double precision, on the CPU since not every accelerator has it.
        ratio = drawn.log_ratio.cpu().double()
        ratios.append(ratio)
        weights.append(drawn.log_likelihood.cpu().double() - ratio)
    log_ratio, log_weight = torch.cat(ratios), torch.cat(weights)
    # Log weights vary little from draw to draw, not at all for an exact posterior: their mean is a sharper estimate
    # than that of the log-likelihood less an exact KL, which varies even then. An exact KL serves to take it apart.
    elbo, kl = log_weight.mean(0), log_ratio.mean(0)
    if guide.prototype.standard_normal_prior and guide.family.has_closed_form_kl:
        kl = guide.get_posterior(*batch.args, **batch.kwargs).kl_standard_normal().cpu().double()
    spread = log_weight.std(0) if particles > 1 else torch.full_like(elbo, math.nan)
    return {
        "elbo": elbo,
        "elbo_se": spread / math.sqrt(particles),
        "reconstruction": elbo + kl,
        "kl": kl,
        "iwae": torch.logsumexp(log_weight, dim=0) - math.log(particles),
    }
