r"""Importance sampling with a posterior as proposal: weighted draws, and draws resampled from the exact posterior.

Resampling (Rubin, 1988) chooses some of many draws from :math:`q`, the proposals, with probabilities proportional to their
weights :math:`p(x, z) / q(z \mid x)`, whose tail is smoothed first (Vehtari, Simpson, Gelman, Yao and Gabry, 2024). As the
number of proposals grows, the chosen draws follow the exact posterior; how many are needed depends on the tail of the weights,
which k-hat measures.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi.data import Batch, Chunk
from amortvi.errors import AmortviWarning, NonFiniteError, OptionError
from amortvi.families import Draws
from amortvi.importance import k_hat_threshold, pareto_smoothed, resample
from amortvi.model import Model, draw_spans
from amortvi.posterior.global_latents import GlobalDraw
from amortvi.posterior.log_weights import log_weights

__all__ = ["WeightedDraws", "check_proposals", "resample_chunk", "warn_of_unreliable_draws", "weighted_draws"]

_LEAST_PROPOSALS = 1000
_PROPOSALS_PER_DRAW = 10


@dataclass(frozen=True)
class WeightedDraws:
    """Draws from the posteriors of a batch with their log weights, on the CPU in double precision.

    Args:
        batch: ``B`` observations.
        rows: their positions among all observations.
        posterior: their posteriors, batch shape ``(B,)``.
        log_weight: ``log p(x, z) - log q(z | x)``, ``(K, B)``.
        log_ratio: ``log q(z | x) - log p(z)``, ``(K, B)``.
        vector: the draws, unconstrained, ``(K, B, D)``, if they were requested.
    """

    batch: Batch
    rows: range
    posterior: Distribution
    log_weight: Tensor
    log_ratio: Tensor
    vector: Tensor | None


def weighted_draws(
    model: Model,
    chunk: Chunk,
    q: Distribution,
    *,
    theta: Mapping[str, Tensor] | None = None,
    keep_draws: bool = False,
) -> WeightedDraws:
    """Draw ``chunk.draws`` times from each posterior and compute the log weights, inside `Model.inference_mode`.

    Args:
        model: the generative model.
        chunk: ``B`` observations.
        q: their posteriors.
        theta: the global latents of each draw, ``(chunk.draws, *shape)``; by default `Model.global_point` for all draws. The
            weights are those of the latents of an observation given these values, without ``p(theta)`` and ``q(theta)``.
        keep_draws: whether to keep the draws.
    """
    ratios, weights, vectors = [], [], []
    for span, shared in draw_spans(theta, chunk.draws, chunk.draws_at_once):
        independent = Draws(q.sample(torch.Size([len(span)])))
        drawn = log_weights(model, q, chunk.batch, independent, theta=GlobalDraw(shared or {}))
        # Sums over draws need double precision, which not every accelerator has.
        ratio = drawn.log_ratio.cpu().double()
        ratios.append(ratio)
        weights.append(drawn.log_likelihood.cpu().double() - ratio)
        if keep_draws:
            vectors.append(drawn.drawn.vector.cpu())
    vector = torch.cat(vectors) if keep_draws else None
    return WeightedDraws(chunk.batch, chunk.rows, q, torch.cat(weights), torch.cat(ratios), vector)


def check_proposals(draws: int, resample: Any, proposals: Any) -> int | None:
    """Return the number of proposals from which to resample, or ``None`` without resampling; see `Posterior.sample`."""
    if not isinstance(resample, bool):
        raise OptionError(
            f"resample must be True or False; got {resample!r}. Pass the number of proposals as proposals=."
        )
    if not resample:
        if proposals is not None:
            raise OptionError(f"proposals={proposals!r} has no effect without resample=True.")
        return None
    default = max(_LEAST_PROPOSALS, _PROPOSALS_PER_DRAW * draws)
    count = default if proposals is None else positive_int("proposals", proposals)
    if count < draws:
        raise OptionError(
            f"proposals must be at least the number of draws, {draws}, and ideally ten times it; got {count}."
        )
    return count


def resample_chunk(
    model: Model, chunk: Chunk, q: Distribution, draws: int, *, index: Any | None = None
) -> tuple[Tensor, Tensor]:
    """Resample ``draws`` of ``chunk.draws`` proposals from each posterior, inside `Model.inference_mode`.

    Args:
        model: the generative model.
        chunk: ``B`` observations.
        q: their posteriors.
        draws: the number of draws to choose.
        index: the user's labels of all observations, if any, for messages.

    Returns:
        The draws, unconstrained, ``(draws, B, D)``, on the device of the batch; and k-hat, ``(B,)``.

    Raises:
        NonFiniteError: an observation has a weight that is NaN or infinite, or no positive weight.
    """
    weighted = weighted_draws(model, chunk, q, keep_draws=True)
    largest = weighted.log_weight.amax(0)
    bad = ~largest.isfinite()
    if bad.any():
        position = int(bad.nonzero()[0])
        row = chunk.rows.start + position
        label = "" if index is None else f" ({index[row]!r})"
        raise NonFiniteError(
            f"the draws of observation {row}{label} cannot be resampled: their largest log weight is "
            f"{float(largest[position])}. Either a log-probability of the model is NaN or infinite, or the model assigns zero "
            f"probability to every draw. amortvi.evidence lists the affected observations."
        )
    smoothed = pareto_smoothed(weighted.log_weight)
    chosen = resample(smoothed.log_weights, draws)
    assert weighted.vector is not None
    vector = weighted.vector.gather(0, chosen.unsqueeze(-1).expand(-1, -1, weighted.vector.shape[-1]))
    return vector.to(chunk.batch.device), smoothed.k_hat


def warn_of_unreliable_draws(k_hat: Tensor, proposals: int) -> None:
    """Issue a warning if k-hat, ``(N,)``, says that the resampled draws of some observations are unreliable."""
    threshold = k_hat_threshold(max(2, proposals))
    unreliable = int((k_hat >= threshold).sum())
    if unreliable:
        warnings.warn(
            f"the resampled draws of {unreliable} of {len(k_hat)} observations are unreliable: with {proposals} proposals their "
            f"k-hat is at least {threshold:.2f}, so q misses too much of the exact posterior. Refine the posteriors "
            f"(AmortizedVI.refine), use a richer family, or use MCMC for these observations, which amortvi.evidence lists.",
            AmortviWarning,
            stacklevel=3,
        )
