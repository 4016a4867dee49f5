"""Posteriors of a linear Gaussian model with known faults, and how to check what `calibrate` finds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.calibration import Calibration, CalibrationTest, calibrate
from amortvi.families import Diagonal
from tests.exact import closest, solved

SIMULATIONS, DRAWS = 1000, 100
CLEAR = 1e-6
"""A fault that must be found has a smaller p-value than this, and the p-values of an exact posterior are larger."""


def strongly_correlated() -> avi.models.LinearGaussian:
    """Return a model whose first two latents have a posterior correlation of -0.92."""
    W = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.3, 0.0, 1.0], [0.0, 0.2, 0.5]], dtype=torch.float64)
    return avi.models.LinearGaussian(W, scale=0.3)


MODEL = strongly_correlated()
COVARIANCE = torch.linalg.inv(MODEL.precision())
STD = COVARIANCE.diagonal().sqrt()
CORRELATION = COVARIANCE / STD / STD.unsqueeze(1)


def with_covariance(covariance: Tensor, shift: float = 0.0) -> avi.AmortizedVI:
    """Return exact posterior means, moved by ``shift`` standard deviations, with another covariance."""
    vi = solved(MODEL)
    with torch.no_grad():
        vi.encoder.bias[3:] = closest(vi.guide.family, torch.linalg.inv(covariance))[3:]
        vi.encoder.bias[:3] += shift * STD
    return vi


def prior() -> avi.AmortizedVI:
    """Return posteriors that ignore the data."""
    vi = solved(MODEL)
    with torch.no_grad():
        vi.encoder.weight.zero_()
        vi.encoder.bias.zero_()
    return vi


POSTERIORS: dict[str, Callable[[], avi.AmortizedVI]] = {
    "exact": lambda: solved(MODEL),
    "narrow": lambda: with_covariance(0.36 * COVARIANCE),
    "wide": lambda: with_covariance(2.25 * COVARIANCE),
    "shifted": lambda: with_covariance(COVARIANCE, shift=0.6),
    "uncorrelated": lambda: with_covariance(torch.diag(STD.square())),
    "weakly correlated": lambda: with_covariance(0.3 * COVARIANCE + 0.7 * torch.diag(STD.square())),
    "best diagonal": lambda: solved(MODEL, Diagonal),
    "prior": prior,
}


@cache
def calibrated(posterior: str) -> Calibration:
    return calibrate(POSTERIORS[posterior](), SIMULATIONS, DRAWS, classifier=True, seed=0)


def strongest(calibration: Calibration, kind: str) -> CalibrationTest:
    """Return the most significant test of a kind; joint tests are found by their quantity."""
    tests = [test for test in calibration.tests if kind in (test.kind, test.quantity.rstrip(" 1234"))]
    return min(tests, key=lambda test: test.p_value)


def assert_calibrated(calibration: Calibration) -> None:
    worst = min(calibration.tests, key=lambda test: test.p_value)
    assert worst.p_value > CLEAR, worst


def assert_fault(calibration: Calibration, kind: str, verdict: str) -> None:
    test = strongest(calibration, kind)
    assert test.p_value < CLEAR, test
    assert test.verdict == verdict
