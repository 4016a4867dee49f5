"""Sampling-importance-resampling (Rubin, 1988): weighted draws become unweighted ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.memory import rows_at_once, spans
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
    """Choose draws of each observation with replacement, with probabilities proportional to their weights.

    With either method, the expected number of times that a draw is chosen is ``draws`` times its normalized weight.

    Args:
        log_weights: ``(K, B)`` in nats; a draw with log weight ``-inf`` is never chosen.
        draws: the number of draws to choose.
        method: ``"systematic"`` spaces the choices evenly over the cumulative weights, from a random start (Kitagawa, 1996).
            Each draw is then chosen its expected number of times, rounded down or up, which removes most of the resampling
            noise; copies of a draw are adjacent. ``"multinomial"`` makes independent choices.
        seed: reproduces the choice and leaves the caller's random state untouched; ``None`` uses that state.

    Returns:
        Positions from 0 to ``K - 1``, ``(draws, B)``, on the CPU.

    Raises:
        DataError: ``log_weights`` is not such a tensor, contains NaN or ``+inf``, or an observation has no positive weight.
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
            cumulative = _cumulative(log_weights[:, rows].t().double().contiguous(), span.start)
            if method == "systematic":
                start = torch.rand(len(span), 1, dtype=torch.float64)
                points = (torch.arange(count, dtype=torch.float64) + start) / count
            else:
                points = torch.rand(len(span), count, dtype=torch.float64)
            # A point at the very end would fall beyond the last weight.
            points = torch.minimum(points, torch.tensor(1 - torch.finfo(torch.float64).eps)) * cumulative[:, -1:]
            chosen[:, rows] = torch.searchsorted(cumulative, points, right=True).t()
    return chosen


def _cumulative(log_weights: Tensor, first: int) -> Tensor:
    """Return the cumulative weights of each row, ``(B, K)``; ``first`` is the position of the first row among all."""
    highest = log_weights.amax(1, keepdim=True)
    check_largest(highest.squeeze(1), first)
    zero = (highest == -torch.inf).squeeze(1)
    if zero.any():
        raise DataError(
            f"log_weights must have a positive weight for each observation; observation {first + int(zero.nonzero()[0])} has "
            f"none."
        )
    return (log_weights - highest).exp_().cumsum(1)
