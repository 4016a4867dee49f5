"""Tests of location, spread and correlation, based on the truth in units of its posterior.

*Whitened* latents are ``w = C^-1 (z - mean) / std``, with the mean, the standard deviations and the correlation matrix ``C C'``
of their posterior. Under an exact posterior, the whitened truth has the moments of the whitened draws: mean 0, variance 1 and no
correlation. The tests take

- ``truth``: the whitened truth, ``(n, D)``;
- ``scores`` and ``norm_scores``: the ranks of the whitened truth, ``(n, D)``, and of its norm, ``(n,)``, among the draws as
  normal scores, which are standard normal if ``q`` is exact;
- ``second_moment``: the second moment of the whitened draws, ``(D, D)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.lazy import stats
from amortvi.diagnostics.calibration.verdicts import NOT_CALIBRATED, Array, CalibrationTest
from amortvi.families import covariance, moments

__all__ = ["Whitening", "correlation_test", "location_test", "spread_test"]

_QUANTITY = "whitened latents"


@dataclass(frozen=True)
class Whitening:
    """A linear map of the latents of each observation, determined independently of the draws that are compared.

    Args:
        loc: posterior means, ``(B, D)``.
        scale: posterior standard deviations, ``(B, D)``.
        factor: Cholesky factors of the correlation matrices, ``(B, D, D)``.
        noise: the expected contribution of estimation noise to a squared correlation.
    """

    loc: Tensor
    scale: Tensor
    factor: Tensor
    noise: float

    @classmethod
    def of(cls, q: Distribution, draws: int) -> Whitening:
        """Return the whitening for ``B`` posteriors, from at least ``draws`` draws if a moment has no closed form."""
        known, matrix, dim = moments(q), covariance(q), q.event_shape[0]
        if known is not None and matrix is not None:
            loc, matrix = known[0].cpu().double(), matrix.cpu().double()
            shrinkage, noise = 1e-6, 0.0
        else:
            count = max(draws, 4 * dim)
            sample = q.sample(torch.Size([count])).cpu().double()
            loc = sample.mean(0)
            matrix = torch.einsum("kbi,kbj->bij", sample - loc, sample - loc) / count
            shrinkage, noise = dim / (dim + count), 1 / count
        scale = matrix.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-300)
        correlation = matrix / scale.unsqueeze(-1) / scale.unsqueeze(-2)
        identity = torch.eye(dim, dtype=correlation.dtype)
        # The tests are valid for any map that is the same for truth and draws; shrinkage makes it invertible.
        return cls(loc, scale, torch.linalg.cholesky((1 - shrinkage) * correlation + shrinkage * identity), noise)

    def squared_correlation(self) -> Tensor:
        """Return estimates of the squared correlations, ``(B, D, D)``."""
        return (self.factor @ self.factor.mT).square() - self.noise

    def __call__(self, vector: Tensor) -> Tensor:
        """Whiten latents ``(*S, B, D)``."""
        columns = ((vector.double() - self.loc) / self.scale).reshape(-1, *self.loc.shape).permute(1, 2, 0)
        white = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return white.permute(2, 0, 1).reshape(vector.shape)


def location_test(truth: Array, scores: Array) -> CalibrationTest:
    """Test whether the posterior is in the right place, on average over the simulations.

    Statistic: the largest mean distance from the posterior mean, in posterior standard deviations. Fault: ``"shifted"``.
    """
    simulations, dim = scores.shape
    z = scores.mean(axis=0) * math.sqrt(simulations)
    worst = int(np.abs(z).argmax())
    distance = truth[:, worst]
    # If the posterior is too narrow, the scores vary more than the p-value assumes; the standard error of the truth decides
    # whether there is a shift as well.
    fault = "shifted" if abs(_z_statistic(distance)) > _critical_value(dim) else NOT_CALIBRATED
    p_value = min(1.0, 2 * dim * float(stats.norm.sf(abs(z[worst]))))
    return CalibrationTest("location", _QUANTITY, float(distance.mean()), p_value, fault)


def spread_test(truth: Array, scores: Array, norm_scores: Array, second_moment: Array) -> CalibrationTest:
    """Test whether the posterior is as wide as the distribution of the truth around it.

    Statistic: the standard deviation of the truth around its mean, relative to that of the posterior, for the coordinate with
    the smallest p-value, or for all coordinates together if their p-value is smaller. Fault: ``"too narrow"`` if it is above
    one, ``"too wide"`` if it is below one.
    """
    simulations, dim = scores.shape
    totals = np.square(scores - scores.mean(axis=0)).sum(axis=0)
    each = 2 * np.minimum(stats.chi2.cdf(totals, simulations - 1), stats.chi2.sf(totals, simulations - 1))
    worst = int(each.argmin())
    by_coordinate = dim * float(each[worst])
    together = 2 * float(stats.norm.sf(abs(norm_scores.mean()) * math.sqrt(simulations)))
    ratios = np.square(truth - truth.mean(axis=0)) / second_moment.diagonal()
    ratio = ratios.mean(axis=1) if together < by_coordinate else ratios[:, worst]
    # Large faults of other kinds also lower the p-values, so the spread itself determines the name of the fault.
    z = _z_statistic(ratio - 1)
    fault = NOT_CALIBRATED if abs(z) < _critical_value(dim) else "too narrow" if z > 0 else "too wide"
    p_value = min(1.0, 2 * by_coordinate, 2 * together)
    return CalibrationTest("spread", _QUANTITY, math.sqrt(ratio.mean()), p_value, fault)


def correlation_test(truth: Array, second_moment: Array, squared_correlation: Array) -> CalibrationTest:
    """Test whether ``D > 1`` latents are correlated as the posterior claims.

    Statistic: the largest correlation that remains in the whitened truth. Fault: ``"missing correlation"`` if the mean squared
    correlations of the posteriors, ``(D, D)``, are close to zero, else ``"wrong correlation"``.
    """
    simulations, dim = truth.shape
    centered = truth - truth.mean(axis=0)
    product = centered.T @ centered / simulations
    variance = np.square(centered).T @ np.square(centered) / simulations - np.square(product)
    difference = product - second_moment
    above = np.triu_indices(dim, 1)
    z = (difference / np.sqrt(np.maximum(variance, 1e-300) / (simulations - 1)))[above]
    worst = int(np.abs(z).argmax())
    p_value = min(1.0, 2 * len(z) * float(stats.t.sf(abs(z[worst]), simulations - 1)))
    scale = np.sqrt(product.diagonal())
    remaining = (difference / scale[:, None] / scale)[above][worst]
    missing = float(squared_correlation[above].mean()) < 0.05**2
    fault = "missing correlation" if missing else "wrong correlation"
    return CalibrationTest("correlation", _QUANTITY, float(remaining), p_value, fault)


def _z_statistic(values: Array) -> float:
    """Return the mean in units of its standard error."""
    return float(values.mean() / max(values.std(ddof=1) / math.sqrt(len(values)), 1e-300))


def _critical_value(dim: int) -> float:
    """Return the bound that the largest absolute value of ``dim`` z-statistics exceeds with probability at most 0.01."""
    return float(stats.norm.isf(0.005 / dim))
