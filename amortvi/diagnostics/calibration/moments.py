"""What is wrong with a posterior, told from the truth in units of the posterior: its place, its spread, its correlations.

*Whitened* latents are ``w = C^-1 (z - mean) / std``, with mean, standard deviations and correlation ``C C'`` of their posterior.
Under an exact posterior the whitened truth has what the whitened draws have: mean zero, spread one, no correlation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.lazy import stats
from amortvi.diagnostics.calibration.findings import Finding
from amortvi.families import Family

__all__ = ["Whitening", "correlation_test", "location_test", "spread_test"]

_CLOSED_FORM_SHRINKAGE = 1e-6


@dataclass(frozen=True)
class Whitening:
    """A linear map of the latents of each observation, chosen apart from the draws that are compared.

    Args:
        loc: posterior means, ``(B, D)``.
        scale: posterior standard deviations, ``(B, D)``.
        factor: Cholesky factors of the correlation matrices, ``(B, D, D)``.
        noise: what estimating adds to the mean square of a correlation.
    """

    loc: Tensor
    scale: Tensor
    factor: Tensor
    noise: float

    @classmethod
    def of(cls, family: Family, posterior: Distribution, draws: int) -> Whitening:
        """Return that of the posteriors of a batch, from moments in closed form where there are any, else from draws.

        Args:
            family: says what is known in closed form.
            posterior: batch shape ``(B,)``, event shape ``(D,)``.
            draws: how many to take for estimates.
        """
        if family.has_closed_form_moments:
            loc, covariance = (value.cpu().double() for value in (posterior.mean, posterior.covariance_matrix))  # type: ignore[attr-defined]
            shrinkage, noise = _CLOSED_FORM_SHRINKAGE, 0.0
        else:
            dim = posterior.event_shape[0]
            count = max(draws, 4 * dim)
            sample = posterior.sample(torch.Size([count])).cpu().double()
            loc = sample.mean(0)
            covariance = torch.einsum("kbi,kbj->bij", sample - loc, sample - loc) / count
            shrinkage, noise = dim / (dim + count), 1 / count
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-300)
        correlation = covariance / scale.unsqueeze(-1) / scale.unsqueeze(-2)
        identity = torch.eye(correlation.shape[-1], dtype=correlation.dtype)
        # Any map serves that is the same for truth and draws: with a little of the identity it can always be solved.
        return cls(loc, scale, torch.linalg.cholesky((1 - shrinkage) * correlation + shrinkage * identity), noise)

    def squared_correlation(self) -> Tensor:
        """Return estimates of the squares of the correlations, ``(B, D, D)``."""
        return (self.factor @ self.factor.mT).square() - self.noise

    def __call__(self, vector: Tensor) -> Tensor:
        """Whiten latents ``(*S, B, D)``."""
        columns = ((vector.double() - self.loc) / self.scale).reshape(-1, *self.loc.shape).permute(1, 2, 0)
        white = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return white.permute(2, 0, 1).reshape(vector.shape)


def location_test(truth: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> Finding:
    """Test whether the posterior is in the right place, on average over the simulations.

    Args:
        truth: the whitened truth, ``(n, D)``.
        scores: its ranks among the draws as normal scores, ``(n, D)``, which are exactly standard normal for an exact ``q``.

    Returns:
        The largest of the mean distances from the posterior mean, in standard deviations of the posterior.
    """

    simulations, dim = scores.shape
    z = scores.mean(axis=0) * math.sqrt(simulations)
    worst = int(np.abs(z).argmax())
    distance = truth[:, worst]
    # The scores of a posterior too narrow vary more than those of an exact one: the word is for what is moved all the same.
    word = "shifted" if abs(_in_errors(distance)) > _clear(dim) else "not calibrated"
    return Finding(float(distance.mean()), min(1.0, 2 * dim * float(stats.norm.sf(abs(z[worst])))), word)


def spread_test(
    truth: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    norm_scores: npt.NDArray[np.float64],
    second_moment: npt.NDArray[np.float64],
) -> Finding:
    """Test whether the posterior is as wide as the truth is spread.

    Args:
        truth: the whitened truth, ``(n, D)``.
        scores: its ranks as normal scores, ``(n, D)``.
        norm_scores: those of its norm, ``(n,)``.
        second_moment: of the whitened draws, ``(D, D)``.

    Returns:
        The standard deviation of the truth about its mean, in those of the posterior: one where it is right, above where the
        posterior is too narrow. It is that of the coordinate which is farthest off, or of all of them if that is clearer.
    """

    simulations, dim = scores.shape
    totals = np.square(scores - scores.mean(axis=0)).sum(axis=0)
    each = 2 * np.minimum(stats.chi2.cdf(totals, simulations - 1), stats.chi2.sf(totals, simulations - 1))
    worst = int(each.argmin())
    by_coordinate = dim * float(each[worst])
    together = 2 * float(stats.norm.sf(abs(norm_scores.mean()) * math.sqrt(simulations)))
    ratios = np.square(truth - truth.mean(axis=0)) / second_moment.diagonal()
    ratio = ratios.mean(axis=1) if together < by_coordinate else ratios[:, worst]
    # The tests see other things than the spread as well, if they are large: the word is for what is spread.
    off = _in_errors(ratio - 1)
    word = "not calibrated" if abs(off) < _clear(dim) else "too narrow" if off > 0 else "too wide"
    return Finding(math.sqrt(ratio.mean()), min(1.0, 2 * by_coordinate, 2 * together), word)


def _in_errors(values: npt.NDArray[np.float64]) -> float:
    """Return the mean of numbers in units of its standard error."""
    return float(values.mean() / max(values.std(ddof=1) / math.sqrt(len(values)), 1e-300))


def _clear(dim: int) -> float:
    """How many standard errors the farthest of ``dim`` means rarely is off by chance, once in a hundred times."""

    return float(stats.norm.isf(0.005 / dim))


def correlation_test(
    truth: npt.NDArray[np.float64], second_moment: npt.NDArray[np.float64], own: npt.NDArray[np.float64]
) -> Finding:
    """Test whether latents hang together as the posterior says.

    Args:
        truth: the whitened truth, ``(n, D)``, ``D`` above one.
        second_moment: of the whitened draws, ``(D, D)``.
        own: the mean square of the correlations of the posteriors, ``(D, D)``, cleared of what estimating them adds.

    Returns:
        The largest correlation that is left in the whitened truth.
    """

    simulations, dim = truth.shape
    centred = truth - truth.mean(axis=0)
    product = centred.T @ centred / simulations
    variance = np.square(centred).T @ np.square(centred) / simulations - np.square(product)
    difference = product - second_moment
    above = np.triu_indices(dim, 1)
    z = (difference / np.sqrt(np.maximum(variance, 1e-300) / (simulations - 1)))[above]
    worst = int(np.abs(z).argmax())
    p_value = min(1.0, 2 * len(z) * float(stats.t.sf(abs(z[worst]), simulations - 1)))
    scale = np.sqrt(product.diagonal())
    left = (difference / scale[:, None] / scale)[above][worst]
    blind = float(own[above].mean()) < _BLIND
    return Finding(float(left), p_value, "blind to correlation" if blind else "wrong correlation")


_BLIND = 0.05**2
"""The mean square of the correlations below which a posterior counts as one without any."""
