r"""Draws with weights become draws without (sampling-importance-resampling; Rubin, 1988)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.chunks import rows_at_once, spans
from amortvi._util.random import random_state
from amortvi.errors import DataError, OptionError
from amortvi.importance.weights import check_largest, checked

__all__ = ["resample"]

_METHODS = ("systematic", "multinomial")


def resample(
    log_weights: Tensor,
    draws: int,
    *,
    method: Literal["systematic", "multinomial"] = "systematic",
    seed: int | None = None,
) -> Tensor:
    """Choose draws of each observation with probabilities in proportion to their weights, with replacement.

    Each draw is chosen ``draws`` times its normalised weight on average, with either method.

    Args:
        log_weights: ``(K, B)`` in nats; ``-inf`` is a weight of zero, never chosen.
        draws: how many to choose.
        method: ``"systematic"`` spaces the choices evenly over the cumulated weights, from a random start: a draw is then
            chosen the whole number below or above its average, which takes most of the noise of choosing away
            (Kitagawa, 1996). What is chosen twice stands side by side. ``"multinomial"`` makes independent choices.
        seed: reproduces the choice and leaves the caller's random state as it was; ``None`` goes on with that state.

    Returns:
        Positions from 0 to ``K - 1``, ``(draws, B)``, on the CPU.

    Raises:
        DataError: ``log_weights`` is no such tensor, has NaN or ``+inf``, or an observation has no weight above zero.
        OptionError: ``draws`` is not a positive integer, or the method is unknown.

    Example:
        >>> weights = torch.tensor([[0.5], [0.0], [0.25], [0.25]])
        >>> resample(weights.log(), 4, seed=0).squeeze(1).tolist()
        [0, 0, 2, 3]
    """
    log_weights, count = checked(log_weights), positive_int("draws", draws)
    if method not in _METHODS:
        raise OptionError(f"method must be one of {list(_METHODS)}; got {method!r}.")
    chosen = torch.empty(count, log_weights.shape[1], dtype=torch.int64)
    with random_state(seed):
        for span in spans(log_weights.shape[1], rows_at_once(log_weights.shape[0] + count)):
            rows = slice(span.start, span.stop)
            cumulated = _cumulated(log_weights[:, rows].t().double().contiguous(), span.start)
            if method == "systematic":
                start = torch.rand(len(span), 1, dtype=torch.float64)
                points = (torch.arange(count, dtype=torch.float64) + start) / count
            else:
                points = torch.rand(len(span), count, dtype=torch.float64)
            # A point at the very end would fall behind the last weight.
            points = torch.minimum(points, torch.tensor(1 - torch.finfo(torch.float64).eps)) * cumulated[:, -1:]
            chosen[:, rows] = torch.searchsorted(cumulated, points, right=True).t()
    return chosen


def _cumulated(log_weights: Tensor, first: int) -> Tensor:
    """Return the cumulated weights of each row ``(B, K)``; ``first`` is the position of the first row among all."""
    highest = log_weights.amax(1, keepdim=True)
    check_largest(highest.squeeze(1), first)
    zero = (highest == -torch.inf).squeeze(1)
    if zero.any():
        raise DataError(
            f"log_weights must have a weight above zero for each observation; observation {first + int(zero.nonzero()[0])} "
            f"has none, {int(zero.sum())} of {len(zero)} have none."
        )
    return (log_weights - highest).exp_().cumsum(1)
