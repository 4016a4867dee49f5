r"""Simulation-based calibration: ranks of the truth among posterior draws (Talts et al., 2018).

A latent :math:`z^*` drawn from the prior is an exact posterior draw given data simulated from it. If ``q`` is exact, the rank
of :math:`f(z^*)` among :math:`f(z_1), \dots, f(z_K)`, :math:`z_k \sim q(z \mid x)`, is therefore uniform on
:math:`0, \dots, K`, for every quantity :math:`f` of latents and data. Here ranks are randomized and scaled to (0, 1),

.. math::

    u = \frac{\#\{k : f(z_k) < f(z^*)\} + U\,(1 + \#\{k : f(z_k) = f(z^*)\})}{K + 1}, \quad U \sim \mathrm{Uniform}(0, 1),

which makes them exactly uniform with or without ties.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.checks import probability as checked_probability
from amortvi._util.lazy import stats
from amortvi.diagnostics.calibration.verdicts import NOT_CALIBRATED, Array

__all__ = ["ecdf_band", "shape_of", "uniform_ranks", "uniformity"]


def uniform_ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Return the randomized ranks, strictly between 0 and 1, of true values ``(*S,)`` among draws ``(K, *S)``.

    Example:
        >>> ranks = uniform_ranks(torch.tensor([0.0, 9.0]), torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
        >>> bool(0 < ranks[0] < 0.25), bool(0.75 < ranks[1] < 1)
        (True, True)
    """
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    place = torch.rand(truth.shape, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return (below + place * (equal + 1)) / (draws.shape[0] + 1)


def uniformity(ranks: Array) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov distance of ranks ``(n,)`` from uniformity, and a p-value.

    The Kolmogorov-Smirnov test is most sensitive to a shift, the chi-squared test on bins to a change of shape. The p-value
    is twice the smaller one of the two tests.
    """
    distance = stats.kstest(ranks, "uniform")
    bins = min(20, max(2, len(ranks) // 20))
    counts, _ = np.histogram(ranks, bins=bins, range=(0, 1))
    return float(distance.statistic), min(1.0, 2 * min(float(distance.pvalue), float(stats.chisquare(counts).pvalue)))


def shape_of(ranks: Array) -> str:
    """Name the fault that a histogram of ranks shows.

    A slope is ``"shifted"``, a U ``"too narrow"`` (the truth is often beyond the draws), a hump ``"too wide"``, and anything
    else ``"not calibrated"``.
    """
    slope = abs(float(ranks.mean()) - 0.5) * math.sqrt(12 * len(ranks))
    hollow = (float(ranks.var()) - 1 / 12) * math.sqrt(180 * len(ranks))
    if max(slope, abs(hollow)) < 2:  # standard errors
        return NOT_CALIBRATED
    if slope > abs(hollow):
        return "shifted"
    return "too narrow" if hollow > 0 else "too wide"


def ecdf_band(simulations: int, *, probability: float = 0.95, points: int = 100) -> tuple[Array, Array, Array]:
    """Return a simultaneous confidence band for the empirical distribution function of uniform ranks.

    It consists of binomial intervals whose common level is found by simulation (Säilynoja, Bürkner and Vehtari, 2022).

    Args:
        simulations: ``n``, the number of ranks.
        probability: the probability that the whole function lies inside the band.
        points: the number of equally spaced points at which the band is computed.

    Returns:
        The points, and the lower and upper end of the band at each, all of shape ``(points,)``.

    Raises:
        OptionError: ``simulations`` or ``points`` is not a positive integer, or ``probability`` is not strictly between 0
            and 1.

    Example:
        >>> at, lower, upper = ecdf_band(100, points=2)
        >>> at, bool(lower[0] < 0.5 < upper[0])
        (array([0.5, 1. ]), True)
    """
    count, cells = positive_int("simulations", simulations), positive_int("points", points)
    inside_with = checked_probability("probability", probability)
    at = np.arange(1, cells + 1) / cells
    numbers = np.arange(count + 1)[:, None]
    # At each point, the level of the narrowest two-sided interval that contains a count.
    level = 2 * np.minimum(stats.binom.cdf(numbers, count, at), stats.binom.sf(numbers - 1, count, at))
    generator = np.random.default_rng(0)
    counts = generator.multinomial(count, np.full(cells, 1 / cells), size=4000).cumsum(axis=1)
    narrowest = level[counts, np.arange(cells)].min(axis=1)
    inside = level >= np.quantile(narrowest, 1 - inside_with)
    lower = inside.argmax(axis=0) / count
    upper = (count - inside[::-1].argmax(axis=0)) / count
    return at, lower, upper
