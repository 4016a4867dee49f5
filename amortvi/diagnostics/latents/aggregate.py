r"""The aggregate posterior, the mixture of the posteriors of all observations (Hoffman and Johnson, 2016).

For ``N`` observations it is :math:`q(z) = \tfrac1N \sum_n q(z \mid x_n)`. The mean KL to the prior is the sum of two parts,

.. math::

    \tfrac1N \sum_n \mathrm{KL}\bigl(q(z \mid x_n) \,\|\, p(z)\bigr)
      = \underbrace{I_q(n; z)}_{\text{mutual information of } n \text{ and } z}
      + \underbrace{\mathrm{KL}\bigl(q(z) \,\|\, p(z)\bigr)}_{\text{mismatch of aggregate posterior and prior}} .

The first part is the mean of :math:`\log q(z \mid x_n) - \log q(z)` over draws. It is at most :math:`\log N`, since the mixture
has ``N`` components; if it is close to :math:`\log N`, the mutual information of ``x`` and ``z`` in the population is larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.memory import spans
from amortvi.data import Chunk
from amortvi.model import PriorRuns
from amortvi.posterior import Posterior
from amortvi.posterior.log_weights import closed_form_kl

__all__ = ["AggregateDraws", "draw_aggregate", "mutual_information"]


@dataclass(frozen=True, eq=False)
class AggregateDraws:
    """Draws from the aggregate posterior and from the prior.

    Args:
        vector: draws from the posteriors of the observations, unconstrained, ``(P, D)``.
        log_prob: the log density of each draw under the posterior it was drawn from, ``(P,)``.
        control: ``log q - log p`` at each draw minus the KL of its posterior, ``(P,)``, a control variate with mean zero;
            ``None`` if the KL has no closed form.
        prior: as many draws from the prior, ``(P, D)``.
    """

    vector: Tensor
    log_prob: Tensor
    control: Tensor | None
    prior: Tensor


def draw_aggregate(posterior: Posterior, points: int) -> AggregateDraws:
    """Draw at least ``points`` times from the aggregate posterior, equally often from each component.

    If there are more than ``points`` components, an evenly spaced subset is used.
    """
    observations, model = len(posterior), posterior.model
    rows = np.linspace(0, observations - 1, min(observations, points)).round().astype(np.int64)

    def draw(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        vector = q.sample(torch.Size([chunk.draws]))
        log_prob, kl = q.log_prob(vector), closed_form_kl(model, q)
        drawn = {"vector": vector, "log_prob": log_prob}
        if kl is not None:
            drawn["control"] = log_prob + 0.5 * (vector.square() + math.log(2 * math.pi)).sum(-1) - kl
        if model.structure.standard_normal_prior:
            drawn["prior"] = torch.randn_like(vector)
        else:
            runs = (PriorRuns(model, chunk.batch, len(span)) for span in chunk.draw_spans())
            drawn["prior"] = torch.cat([run.vector for run in runs])
        return drawn

    found = posterior.select(rows).map_chunks(draw, draws=-(-points // len(rows)), observation_dim=1)
    whole = {name: value.flatten(0, 1) for name, value in found.items()}
    return AggregateDraws(whole["vector"], whole["log_prob"], whole.get("control"), whole["prior"])


def mutual_information(posterior: Posterior, drawn: AggregateDraws) -> tuple[float, float]:
    """Return the mutual information of observation and latents, and its Monte Carlo standard error, in nats."""
    terms = drawn.log_prob.double() - _log_aggregate(posterior, drawn.vector)
    if drawn.control is not None:
        control = drawn.control.double()
        (_, covariance), (_, variance) = torch.cov(torch.stack([terms, control]))
        terms = terms - covariance / variance.clamp(min=torch.finfo(variance.dtype).tiny) * control
    return float(terms.mean()), float(terms.std() / math.sqrt(len(terms)))


def _log_aggregate(posterior: Posterior, vector: Tensor) -> Tensor:
    """Return the log density of the aggregate posterior at ``vector``, ``(P, D)``."""
    points = vector.to(posterior.device)
    total, observations = torch.full((len(points),), -math.inf, dtype=torch.float64), 0

    def log_prob(q: Distribution, span: range) -> Tensor:
        part = points[span.start : span.stop].unsqueeze(1)
        return q.log_prob(part.expand(-1, *q.batch_shape, -1))

    def add(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        nonlocal observations
        observations += len(chunk.rows)
        for span in spans(len(points), chunk.draws_at_once):
            part = total[span.start : span.stop]
            torch.logaddexp(part, torch.logsumexp(log_prob(q, span), dim=1).cpu().double(), out=part)
        return {}

    # 64 points at once are enough for efficient vectorization.
    posterior.map_chunks(add, draws=64, probe=lambda _, q: {"log_prob": log_prob(q, range(1))})
    return total - math.log(observations)
