"""Checks of log weights, and their effective sample size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amortvi._util.memory import rows_at_once, spans
from amortvi.errors import DataError

__all__ = ["check_largest", "checked", "effective_sample_size"]


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Return the effective sample size of the weighted draws of each observation.

    This is Kish's :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, which is ``K`` for equal weights and close to one if a single weight
    dominates. It is itself an estimate, and far too large if the draws miss an important region; k-hat (`pareto_smoothed`)
    is the more reliable diagnostic.

    Args:
        log_weights: ``(K, B)`` in nats, in any floating-point type; ``-inf`` is a weight of zero.

    Returns:
        ``(B,)``, from 1 to ``K``, or 0 if all weights are zero; on the CPU in double precision.

    Raises:
        DataError: ``log_weights`` is not such a tensor, or contains NaN or ``+inf``.

    Example:
        >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -1000.0]]))
        tensor([2., 1.], dtype=torch.float64)
    """
    log_weights = checked(log_weights)
    found = torch.empty(log_weights.shape[1], dtype=torch.float64)
    for span in spans(len(found), rows_at_once(log_weights.shape[0])):
        columns = slice(span.start, span.stop)
        part = log_weights[:, columns].double()
        largest = part.amax(0)
        check_largest(largest, span.start)
        # Relative to the largest weight, so that nothing overflows.
        ratios = (part - largest).exp_()
        size = ratios.sum(0).square() / ratios.square().sum(0)
        found[columns] = torch.where(largest == -torch.inf, 0.0, size)
    return found


def checked(log_weights: Any) -> Tensor:
    """Return log weights, detached and on the CPU; raise `DataError` unless they are a floating-point tensor ``(K, B)``."""
    if not isinstance(log_weights, Tensor) or not log_weights.is_floating_point():
        kind = log_weights.dtype if isinstance(log_weights, Tensor) else type(log_weights).__name__
        raise DataError(f"log_weights must be a floating-point tensor of shape (draws, observations); got {kind}.")
    if log_weights.dim() != 2 or log_weights.shape[0] == 0:
        raise DataError(
            f"log_weights must have shape (draws, observations) with at least one draw; got {tuple(log_weights.shape)}."
        )
    return log_weights.detach().cpu()


def check_largest(largest: Tensor, first: int = 0) -> None:
    """Raise `DataError` if the largest log weight of an observation, ``(B,)``, is NaN or ``+inf``.

    ``first`` is the position of the first of these observations among all.
    """
    bad = ~(largest < torch.inf)
    if bad.any():
        position = int(bad.nonzero()[0])
        raise DataError(
            f"log_weights must be finite, or -inf for a weight of zero; observation {first + position} has "
            f"{float(largest[position])}: check the log-probabilities of its model and of its posterior."
        )
