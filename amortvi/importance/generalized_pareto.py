r"""The generalized Pareto distribution, fitted to many samples at once.

Its density for :math:`y > 0` is :math:`\sigma^{-1} (1 + k y / \sigma)^{-1/k - 1}`; moments of order :math:`1 / k` and above
do not exist. Zhang and Stephens (2009), "A new and efficient estimation method for the generalized Pareto distribution",
Technometrics 51(3), compute the posterior mean of :math:`b = -k / \sigma` on a grid of :math:`30 + \sqrt n` values whose scale
depends on the sample, each with the shape that maximizes the likelihood. The shape is then shrunk toward 0.5 by a prior worth
ten observations (Vehtari, Simpson, Gelman, Yao and Gabry, 2024, "Pareto smoothed importance sampling", JMLR 25(72)).

Samples of different sizes are rows of one tensor, padded with leading zeros, whose terms :math:`\log(1 - b \cdot 0)` are zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amortvi._util.memory import spans

__all__ = ["fit", "quantiles", "scratch"]

_PRIOR_SCALE = 3
_PRIOR_SHAPE, _PRIOR_WEIGHT = 0.5, 10
_NEGLIGIBLE = 10 * torch.finfo(torch.float64).eps
_MAX_FOLDS = 4
_LARGEST = 1e300
_CACHED = 2**18
"""The number of elements of the largest intermediate result, small enough for the processor's cache."""


def fit(samples: Tensor, sizes: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a distribution to each sample.

    Args:
        samples: ``(R, n)`` in double precision, each row in ascending order after leading zeros.
        sizes: the size of the sample in each row, ``(R, 1)``.
        buffer: the result of `scratch` for ``n``.

    Returns:
        The shapes ``k`` and the scales ``sigma``, each ``(R, 1)``; not finite for samples that are empty or exceed the range
        of double precision.
    """
    width, n = samples.shape[1], sizes.to(samples.dtype)
    quartile = samples.gather(1, width - sizes + (n / 4 + 0.5).long().clamp_(max=width) - 1)
    points = 30 + n.sqrt().floor()
    steps = torch.arange(1, int(points.max()) + 1, dtype=samples.dtype) - 0.5
    b = (1 - (points / steps).sqrt()) / (_PRIOR_SCALE * quartile) + 1 / samples[:, -1:]
    k = _sum_of_logs(b, samples, buffer) / n
    log_likelihood = (n * (torch.log(-b / k) - k - 1)).masked_fill_(steps > points, -torch.inf)
    weight = log_likelihood.softmax(1)
    weight.masked_fill_(weight < _NEGLIGIBLE, 0.0)
    b = (b * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    k = torch.log1p(-b * samples).sum(1, keepdim=True) / n
    return (n * k + _PRIOR_WEIGHT * _PRIOR_SHAPE) / (n + _PRIOR_WEIGHT), -k / b


def quantiles(probabilities: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Return quantiles ``(R, n)`` at probabilities ``(R, n)`` of distributions with shapes and scales ``(R, 1)``."""
    tiny = torch.finfo(shape.dtype).eps
    # A tiny shape stands for zero: up to rounding, the limit is the exponential distribution.
    k = torch.where(shape.abs() < tiny, tiny, shape)
    return torch.log1p(-probabilities).mul_(-k).expm1_().mul_(scale / k)


def scratch(width: int) -> Tensor:
    """Return a buffer for the intermediate results of `fit` for samples ``(R, width)``.

    It is allocated once, because the system takes longer to provide new memory than `fit` takes to fill it.
    """
    return torch.empty(max(_CACHED, width * (30 + int(width**0.5))), dtype=torch.float64)


def _sum_of_logs(b: Tensor, samples: Tensor, buffer: Tensor) -> Tensor:
    """Return the sums of ``log(1 - b y)`` over each sample, ``(R, m)``, for ``b``, ``(R, m)``, and ``samples``, ``(R, n)``."""
    sums = torch.empty_like(b)
    n, points = samples.shape[1], b.shape[1]
    for span in spans(b.shape[0], buffer.numel() // (n * points)):
        rows = slice(span.start, span.stop)
        rates, values = -b[rows], samples[rows].t()
        factors = buffer[: n * len(span) * points].view(n, len(span), points)
        torch.mul(values.unsqueeze(-1), rates, out=factors).add_(1)
        # Logarithms dominate the cost, so up to sixteen factors are multiplied first, large ones with small ones.
        for _ in range(_num_folds(float((rates.amax(1) * values[-1]).max()))):
            half = factors.shape[0] // 2
            factors[:half] *= factors[factors.shape[0] - half :]
            factors = factors[: factors.shape[0] - half]
        sums[rows] = factors.log_().sum(0)
    return sums


def _num_folds(largest: float) -> int:
    """Return how many times factors up to ``1 + largest`` can be multiplied in pairs without overflow."""
    if not largest < _LARGEST:
        return 0
    return min(_MAX_FOLDS, int(math.log2(math.log(_LARGEST) / math.log(2 + largest))))
