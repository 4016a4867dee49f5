r"""The aggregate posterior: what the posteriors of all observations make together (Hoffman and Johnson, 2016).

For ``N`` observations it is the mixture :math:`q(z) = \tfrac1N \sum_n q(z \mid x_n)`. The mean KL to the prior has two parts,

.. math::

    \tfrac1N \sum_n \mathrm{KL}\bigl(q(z \mid x_n) \,\|\, p(z)\bigr)
      = \underbrace{I_q(n; z)}_{\text{what } z \text{ says of which observation it was}}
      + \underbrace{\mathrm{KL}\bigl(q(z) \,\|\, p(z)\bigr)}_{\text{how far all together are from the prior}} .

The first is the mean of :math:`\log q(z \mid x_n) - \log q(z)` over draws of each, with the mixture of all ``N`` in it, so it is
at most :math:`\log N`, and where it is near that, the information that ``z`` has of ``x`` in the population is larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from amortvi._util.chunks import Gathered, Tile, rows_at_once, spans
from amortvi.data import Batch
from amortvi.data.chunks import numbers_per_row
from amortvi.model.priors import PriorRuns
from amortvi.model.program import GenerativeModel
from amortvi.posterior.posterior import Posterior

__all__ = ["Aggregate", "aggregate_draws", "mutual_information"]

_AT_ONCE = 64
"""Points at once where all observations fit into memory."""


@dataclass(frozen=True)
class Aggregate:
    """Draws from the aggregate posterior and from the prior, for some of the observations.

    Args:
        vector: draws from the posteriors, unconstrained, ``(P, D)``.
        log_prob: the log density of each in the posterior that it is from, ``(P,)``.
        surplus: where the KL of the posterior that it is from is known: ``log q - log p`` at the draw less that KL, ``(P,)``,
            which is zero on average.
        prior: as many draws from the prior, ``(P, D)``.
    """

    vector: Tensor
    log_prob: Tensor
    surplus: Tensor | None
    prior: Tensor


def aggregate_draws(model: GenerativeModel, posterior: Posterior, points: int) -> Aggregate:
    """Draw about ``points`` times from the aggregate posterior, as often from one posterior as from another.

    Args:
        model: the generative model, in evaluation mode.
        posterior: of all the observations; where there are more than ``points`` of them, some evenly spread ones are drawn
            from.
        points: how many draws.
    """
    total = len(posterior)
    rows = np.linspace(0, total - 1, min(total, points)).round().astype(np.int64)
    chosen, draws = posterior.select(rows), -(-points // len(rows))
    source = _Source(model, posterior)
    tile = Tile.of(draws, numbers_per_row(lambda batch: source(batch, posterior.of(batch), 1, 1), posterior.first()))
    gathered = Gathered(len(rows))
    for batch, q in chosen.chunks(tile.numbers_per_observation):
        gathered.add(source(batch, q, draws, tile.draws))
    whole = {name: value.flatten(0, 1) for name, value in gathered.result().items()}
    return Aggregate(whole["vector"], whole["log_prob"], whole.get("surplus"), whole["prior"])


class _Source:
    """Draws from the posteriors and priors of a batch, ``(B, K, ...)``.

    Args:
        model: the generative model.
        posterior: of the observations.
    """

    def __init__(self, model: GenerativeModel, posterior: Posterior) -> None:
        self.model = model
        self.posterior = posterior
        self.exact = posterior.prototype.standard_normal_prior and posterior.family.has_closed_form_kl

    def __call__(self, batch: Batch, q: Distribution, draws: int, at_once: int) -> dict[str, Tensor]:
        vector = q.sample(Size([draws]))
        log_prob = q.log_prob(vector)
        found = {"vector": vector, "log_prob": log_prob, "prior": self._prior(batch, vector, at_once)}
        if self.exact:
            log_prior = -0.5 * (vector.square() + math.log(2 * math.pi)).sum(-1)
            found["surplus"] = log_prob - log_prior - q.kl_standard_normal()  # type: ignore[attr-defined]  # it has it
        return {name: value.transpose(0, 1).cpu() for name, value in found.items()}

    def _prior(self, batch: Batch, like: Tensor, at_once: int) -> Tensor:
        if self.posterior.prototype.standard_normal_prior:
            return torch.randn_like(like)
        runs = (PriorRuns(self.model, self.posterior.prototype, batch, len(span)) for span in spans(len(like), at_once))
        return torch.cat([run.vector for run in runs])


def mutual_information(posterior: Posterior, drawn: Aggregate) -> tuple[float, float]:
    """Return the mutual information of observation and latents, and its Monte Carlo standard error, in nats.

    Args:
        posterior: of all the observations.
        drawn: draws from the aggregate posterior.
    """
    terms = drawn.log_prob.double() - _log_aggregate(posterior, drawn.vector)
    if drawn.surplus is not None:
        # A control variate: its mean is known to be zero, and much of the scatter of the terms is its own.
        (_, both), (_, own) = torch.cov(torch.stack([terms, drawn.surplus.double()]))
        terms = terms - both / own.clamp(min=torch.finfo(own.dtype).tiny) * drawn.surplus
    return float(terms.mean()), float(terms.std() / math.sqrt(len(terms)))


def _log_aggregate(posterior: Posterior, vector: Tensor) -> Tensor:
    """Return the log density of the aggregate posterior at ``vector``, ``(P, D)``: all posteriors at all points."""
    points, dim = vector.shape
    total, count = torch.full((points,), -math.inf, dtype=torch.float64), 0
    at = vector.to(posterior.device)
    for batch, q in posterior.chunks(_AT_ONCE * dim):
        count += batch.size
        for span in spans(points, rows_at_once(batch.size * dim)):
            rows = at[span.start : span.stop].unsqueeze(1).expand(-1, batch.size, dim)
            part = torch.logsumexp(q.log_prob(rows), dim=1).cpu().double()
            total[span.start : span.stop] = torch.logaddexp(total[span.start : span.stop], part)
    return total - math.log(count)
