"""Log-probabilities of the sites in one run of the model, and their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from amortvi.model.latents import sum_from
from amortvi.model.sites import Site

__all__ = ["SiteLogProbs", "log_jacobian", "sum_per_observation", "sum_sites"]


@dataclass(frozen=True)
class SiteLogProbs:
    """Log-probabilities of the sites in one run of the model.

    They are *unscaled*: the factor of a subsampled plate belongs to sums over the data, not to an observation.

    Args:
        local: for each site inside the data plate, ``(K, B)``.
        global_log_prob: the sum over all sites outside the data plate, a scalar.
        sites: the sites of the run, on ``K * B`` observations.
    """

    local: Mapping[str, Tensor]
    global_log_prob: Tensor
    sites: Sequence[Site]


def sum_sites(terms: Mapping[str, Tensor]) -> Tensor:
    """Add the terms of all sites."""
    return reduce(torch.add, terms.values())


def sum_per_observation(log_prob: Tensor, dim: int, observations: int) -> Tensor:
    """Sum a log-probability in model layout over all dimensions except ``dim``, the data plate: ``(observations,)``."""
    if log_prob.dim() < -dim:
        return log_prob.sum().expand(observations)
    if log_prob.dim() > 1:
        log_prob = log_prob.movedim(dim, 0).flatten(1).sum(-1)
    return log_prob.expand(observations)


def log_jacobian(log_dets: Mapping[str, Tensor], like: Tensor) -> Tensor | float:
    """Add ``log |det J|`` of the transforms of all sites, shaped like ``like``, ``(*S, B)``; 0 if there are none."""
    return sum((sum_from(log_det, like.dim()) for log_det in log_dets.values()), start=0.0)
