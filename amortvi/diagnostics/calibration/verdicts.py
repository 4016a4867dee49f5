"""The result of one calibration test, and the correction for testing many quantities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["CALIBRATED", "NOT_CALIBRATED", "Array", "CalibrationTest", "holm_corrected"]

Array: TypeAlias = npt.NDArray[np.float64]

CALIBRATED = "calibrated"
NOT_CALIBRATED = "not calibrated"
"""The verdict of a test that finds a fault but cannot name it."""

_SIGNIFICANCE = 0.05
"""The largest probability that an exact posterior fails any of the tests."""


@dataclass(frozen=True)
class CalibrationTest:
    """One test of a posterior against the latents from which data were simulated.

    Args:
        kind: the kind of the test; see `calibrate`.
        quantity: the quantity of latents and data that is tested.
        statistic: the size of the effect; its definition depends on the kind.
        p_value: the probability of an effect at least this large for an exact posterior.
        verdict: ``"calibrated"`` if ``corrected`` is at least 0.05, else the fault.
        corrected: the p-value corrected for the number of tests (Holm, 1979).
    """

    kind: str
    quantity: str
    statistic: float
    p_value: float
    verdict: str
    corrected: float = math.nan


def holm_corrected(tests: Sequence[CalibrationTest]) -> tuple[CalibrationTest, ...]:
    """Correct the p-values for the number of tests (Holm, 1979), and clear the fault of each test that is not significant."""
    order = sorted(range(len(tests)), key=lambda i: tests[i].p_value)
    corrected, largest = [0.0] * len(tests), 0.0
    for position, i in enumerate(order):
        largest = max(largest, min(1.0, (len(tests) - position) * tests[i].p_value))
        corrected[i] = largest
    return tuple(
        replace(test, corrected=p, verdict=test.verdict if p < _SIGNIFICANCE else CALIBRATED)
        for test, p in zip(tests, corrected, strict=True)
    )
