r"""Pareto-smoothed importance sampling (Vehtari, Simpson, Gelman, Yao and Gabry, 2024, JMLR 25(72)).

The :math:`M = \lceil \min(K / 5,\, 3 \sqrt K) \rceil` largest of ``K`` weights form the tail. A generalized Pareto distribution
is fitted to their excesses over the next smaller weight, the cutoff. Its shape ``k`` indicates which moments of the weights
exist: below 0.5 their variance is finite and sample means converge quickly; above 0.7 no practical number of draws is enough;
from 1 on the mean does not exist. The tail is then replaced by quantiles of the fitted distribution, truncated at the largest
weight, which reduces the variance considerably at the cost of a small bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.memory import spans
from amortvi.importance import generalized_pareto
from amortvi.importance.weights import check_largest, checked

__all__ = ["Smoothed", "k_hat_threshold", "largest", "pareto_smoothed"]

_SHORTEST_TAIL = 5
_SMALLEST = math.log(torch.finfo(torch.float64).tiny)
"""A log weight this far below the largest counts as a weight of zero, which is never in the tail."""
_FLAT = 1e-3
"""A tail is flat if its log weights differ by less; rounding in single precision causes differences of about this size."""
_GROUPS = 2.6
"""The number of groups per requested element in `largest`; this value is about the fastest."""
_CACHED = 2**19
"""The number of elements of a block of observations: small enough for the processor's cache, large enough to hide overhead."""


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Weights with a smoothed tail.

    Args:
        log_weights: ``(K, B)`` in nats, on the CPU in double precision; not normalized, so that the log of their mean
            estimates the same quantity as before.
        k_hat: the estimated shape of the tail, ``(B,)``; see `pareto_smoothed`.
    """

    log_weights: Tensor
    k_hat: Tensor

    @property
    def normalized(self) -> Tensor:
        """The log weights, ``(K, B)``, normalized so that the weights of each observation sum to one, unless all are zero."""
        total = self.log_weights.logsumexp(0)
        return self.log_weights - total.masked_fill_(total == -torch.inf, 0.0)


def pareto_smoothed(log_weights: Tensor) -> Smoothed:
    r"""Smooth the tail of the weights of each observation, and estimate its shape.

    The results agree with the paper and with `arviz.psislw` of ArviZ 0.x (``reff=1``). The tail in ArviZ 1.x has one draw less
    unless ``3 sqrt(K)`` is an integer. Where ArviZ 0.x returns ``inf``, two cases are distinguished. If the tail is flat (its
    weights agree within a factor of 1.001), ``k_hat`` is ``-inf``, the best possible value. If the tail is unknown, it is
    ``inf``: with fewer than 21 draws, with fewer than five weights above the cutoff, or if all weights are zero.

    Args:
        log_weights: ``(K, B)`` in nats, of independent draws, in any floating-point type; ``-inf`` is a weight of zero.

    Returns:
        The smoothed weights and the estimated shapes ``k_hat``. A tail that was not fitted is unchanged. Which of several
        equal weights receives which quantile is unspecified.

    Raises:
        DataError: ``log_weights`` is not such a tensor, or contains NaN or ``+inf``.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> normal = torch.randn(1000, 2, generator=generator, dtype=torch.float64)
        >>> smoothed = pareto_smoothed(normal * torch.tensor([0.5, 4.0]))  # a light tail and a heavy one
        >>> (smoothed.k_hat < k_hat_threshold(1000)).tolist()
        [True, False]
    """
    log_weights = checked(log_weights)
    draws, observations = log_weights.shape
    length = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    # Allocated by NumPy, which requests large pages: 80 MB are then filled in a third of the time.
    whole = torch.from_numpy(np.empty((observations, draws)))
    k_hat = torch.empty(observations, dtype=torch.float64)
    scratch = generalized_pareto.scratch(length + 1)
    for span in spans(observations, max(1, _CACHED // draws)):
        rows = slice(span.start, span.stop)
        whole[rows] = log_weights[:, rows].t()
        check_largest(whole[rows].amax(1), span.start)
        k_hat[rows] = _smooth(whole[rows], length, scratch)
    return Smoothed(whole.t(), k_hat)


def _smooth(rows: Tensor, length: int, scratch: Tensor) -> Tensor:
    """Smooth the tail of each row of log weights, ``(R, K)``, in place, and return the k-hats, ``(R,)``."""
    tail, positions = largest(rows, min(length + 1, rows.shape[1]))  # including the cutoff
    flat = (tail[:, -1] - tail[:, 0] < _FLAT) & (length >= _SHORTEST_TAIL)
    highest = tail[:, -1:].clamp(min=torch.finfo(tail.dtype).min)  # finite even if all weights are zero
    tail = tail - highest
    cutoff = tail[:, :1].clamp(min=_SMALLEST)
    sizes = (tail > cutoff).sum(1, keepdim=True)  # ties with the cutoff are not in the tail
    base = cutoff.exp()
    exceeding = (tail - cutoff).clamp_(min=0.0).expm1_().mul_(base)
    shape, scale = generalized_pareto.fit(exceeding, sizes, scratch)
    fitted = (sizes >= _SHORTEST_TAIL) & shape.isfinite()
    ranks = torch.arange(tail.shape[1], dtype=tail.dtype) + (sizes - tail.shape[1])
    quantiles = generalized_pareto.quantiles((ranks + 0.5) / sizes, shape, scale)
    smoothed = quantiles.add_(base).log_().clamp_(max=0.0).add_(highest)
    # Positions outside the tail are redirected to the largest weight, which is then written repeatedly with the same value.
    written = fitted & (ranks >= 0)
    last = positions[:, -1:]
    repeated = torch.where(fitted, smoothed[:, -1:], rows.gather(1, last))
    rows.scatter_(1, torch.where(written, positions, last), torch.where(written, smoothed, repeated))
    return torch.where(fitted.squeeze(1), shape.squeeze(1), torch.where(flat, -torch.inf, torch.inf))


def k_hat_threshold(draws: int) -> float:
    r"""Return the k-hat below which estimates from ``draws`` draws are reliable, :math:`\min(1 - 1 / \log_{10} S,\, 0.7)`.

    Args:
        draws: ``S``, at least 2.

    Raises:
        OptionError: ``draws`` is not an integer of at least 2.

    Example:
        >>> [round(k_hat_threshold(draws), 2) for draws in (100, 320, 1000, 10_000)]
        [0.5, 0.6, 0.67, 0.7]
    """
    return min(1 - 1 / math.log10(positive_int("draws", draws, at_least=2)), 0.7)


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest elements of each row in ascending order, with their positions.

    Each row is divided into groups. The ``count``-th largest of the group maxima is a lower bound of the result, and only
    slightly more than ``count`` elements exceed it. Only those are sorted.

    Args:
        rows: ``(R, K)`` on the CPU, contiguous, without NaN.
        count: at most ``K``.

    Returns:
        The elements and their positions, each ``(R, count)``. The positions of elements equal to the first one are
        unspecified.

    Example:
        >>> values, positions = largest(torch.tensor([[3.0, 9.0, 1.0, 7.0, 5.0]]), 3)
        >>> values, positions[:, 1:]
        (tensor([[5., 7., 9.]]), tensor([[3, 1]]))
    """
    height, width = rows.shape
    size = max(1, int(width / (_GROUPS * count)))
    maxima = rows[:, : width - width % size].view(height, size, -1).amax(1).numpy()
    bound = np.partition(maxima, -count, axis=1)[:, -count, np.newaxis]
    elements = rows.numpy()
    above = np.flatnonzero(elements > bound)
    row, position = np.divmod(above, width)
    found = np.bincount(row, minlength=height)
    start = np.cumsum(found) - found
    # Rows with fewer elements above their bound are padded with the bound itself.
    breadth = max(count, int(found.max(initial=0)))
    values = np.repeat(bound, breadth, axis=1)
    values.ravel()[np.arange(len(above)) + (np.arange(height) * breadth - start)[row]] = elements.ravel()[above]
    order = np.argsort(values, axis=1)[:, -count:]
    source = np.minimum(start[:, np.newaxis] + order, len(above))
    positions = np.append(position, 0)[source]
    return torch.from_numpy(np.take_along_axis(values, order, axis=1)), torch.from_numpy(positions)
