"""Log weights as they are given, and how many draws they are worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amortvi._util.chunks import rows_at_once, spans
from amortvi.errors import DataError

__all__ = ["check_largest", "checked", "effective_sample_size"]


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Return how many equally weighted draws the draws of each observation are worth.

    It is Kish's :math:`(\sum_k w_k)^2 / \sum_k w_k^2`: all ``K`` for equal weights, one where a single weight outdoes all
    others. It is itself an estimate, and far too large where draws have missed what matters; ask `pareto_smoothed` for that.

    Args:
        log_weights: ``(K, B)`` in nats, of any floating type; ``-inf`` is a weight of zero.

    Returns:
        ``(B,)``, from 1 to ``K``, and 0 where all weights are zero; on the CPU in double precision.

    Raises:
        DataError: ``log_weights`` is no such tensor, or has NaN or ``+inf``.

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
        # Against the largest, of which all weights are a fraction: nothing overflows.
        ratios = (part - largest).exp_()
        size = ratios.sum(0).square() / ratios.square().sum(0)
        found[columns] = torch.where(largest == -torch.inf, 0.0, size)
    return found


def checked(log_weights: Any) -> Tensor:
    """Return log weights ``(K, B)`` without a graph, on the CPU.

    Raises:
        DataError: they are no floating tensor of two dimensions with at least one draw.
    """
    if not isinstance(log_weights, Tensor) or not log_weights.is_floating_point():
        kind = log_weights.dtype if isinstance(log_weights, Tensor) else type(log_weights).__name__
        raise DataError(f"log_weights must be a floating tensor of shape (draws, observations); got {kind}.")
    if log_weights.dim() != 2 or log_weights.shape[0] == 0:
        raise DataError(
            f"log_weights must have shape (draws, observations) with at least one draw; got {tuple(log_weights.shape)}."
        )
    return log_weights.detach().cpu()


def check_largest(largest: Tensor, first: int = 0) -> None:
    """Raise `DataError` if the largest log weight of an observation, ``(B,)``, is NaN or ``+inf``.

    Args:
        largest: NaN where any weight is.
        first: the position of the first of these observations among all.
    """
    bad = ~(largest < torch.inf)
    if bad.any():
        position = int(bad.nonzero()[0])
        raise DataError(
            f"log_weights must be finite, or -inf for a weight of zero; observation {first + position} has "
            f"{float(largest[position])}, {int(bad.sum())} of {len(bad)} have such a value. A log-probability of the model or of "
            f"the posterior is not a number there."
        )
