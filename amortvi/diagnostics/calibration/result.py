"""The result of a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import pandas as pd
from amortvi.diagnostics.calibration.coverage import area_to_curve, coverage_at
from amortvi.errors import OptionError

__all__ = ["CALIBRATED", "SIGNIFICANCE", "Calibration", "CalibrationTest", "corrected"]

SIGNIFICANCE = 0.05
"""An exact posterior is called anything but calibrated with this probability, at most, over all tests together."""

CALIBRATED = "calibrated"

_TELLING = ({"location", "spread", "correlation"}, {"marginal"})
"""Tests whose words name a fault of the posterior as a whole, and those that name one where the first are silent."""


@dataclass(frozen=True)
class CalibrationTest:
    """One test of a posterior against simulated truth.

    Args:
        kind: what it looks at; see `calibrate`.
        quantity: of which quantity.
        statistic: how large the effect is; what it is depends on the kind.
        p_value: how rarely an exact posterior gives one as large.
        corrected: the p-value after the correction for all the tests (Holm, 1979).
        verdict: ``"calibrated"`` where ``corrected`` is 0.05 or more, else what is wrong, in a word.
    """

    kind: str
    quantity: str
    statistic: float
    p_value: float
    corrected: float
    verdict: str


def corrected(tests: Sequence[CalibrationTest]) -> tuple[CalibrationTest, ...]:
    """Correct p-values for the number of tests (Holm, 1979); whatever is not significant then is called calibrated.

    Args:
        tests: with the words for what is wrong as their verdicts.
    """
    order = sorted(range(len(tests)), key=lambda i: tests[i].p_value)
    p_values, largest = [0.0] * len(tests), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(tests) - place) * tests[i].p_value))
        p_values[i] = largest
    return tuple(
        replace(test, corrected=p, verdict=test.verdict if p < SIGNIFICANCE else CALIBRATED)
        for test, p in zip(tests, p_values, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Calibration:
    """How a posterior does on data simulated from the model, where the truth is known; see `calibrate`.

    Args:
        draws: ``K``, posterior draws for each of the ``n`` simulations.
        tests: all of them.
        ranks: for each quantity its ranks among the draws, in (0, 1), ``(n,)``.
        density_levels: the probability under ``q`` of the region of highest density on whose edge the truth lies, ``(n, 1)``.
        reference_levels: that of balls around several random reference points (TARP), ``(n, references)``.
        whitened: the truth in units of its posterior, ``(n, D)``: mean zero, spread one, no correlation if ``q`` is exact.
    """

    draws: int
    tests: tuple[CalibrationTest, ...]
    ranks: Mapping[str, npt.NDArray[np.float64]]
    density_levels: npt.NDArray[np.float64]
    reference_levels: npt.NDArray[np.float64]
    whitened: npt.NDArray[np.float64]

    @property
    def simulations(self) -> int:
        """``n``, the number of simulations."""
        return len(self.density_levels)

    @property
    def is_calibrated(self) -> bool:
        """Whether no test found a fault."""
        return all(test.verdict == CALIBRATED for test in self.tests)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the posterior, in words; empty where no test found a fault."""
        found = [test for test in self.tests if test.verdict not in (CALIBRATED, "not calibrated")]
        for kinds in _TELLING:
            words = dict.fromkeys(test.verdict for test in found if test.kind in kinds)
            if words:
                return tuple(words)
        return () if self.is_calibrated else ("not calibrated",)

    @property
    def verdict(self) -> str:
        """The faults, or ``"calibrated"``."""
        return ", ".join(self.faults) or CALIBRATED

    @property
    def area_to_curve(self) -> float:
        """Of TARP, the mean area between coverage and diagonal above one half: below zero where ``q`` is overconfident."""
        return area_to_curve(self.reference_levels)[0]

    def coverage(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> pd.DataFrame:
        """Return how often regions of ``q`` hold the truth.

        Args:
            levels: probabilities that the regions claim, strictly between 0 and 1.

        Returns:
            A row a level, with columns ``highest_density`` (Hermans et al., 2022), ``around_references`` (TARP, the mean over
            the reference points) and ``standard_error``, that of the first if ``q`` is exact; that of the second is smaller.

        Raises:
            OptionError: a level is not strictly between 0 and 1.
        """
        claimed = np.asarray(levels, dtype=np.float64)
        if claimed.ndim != 1 or not claimed.size or not bool(((claimed > 0) & (claimed < 1)).all()):
            raise OptionError(f"levels must be probabilities strictly between 0 and 1; got {levels!r}.")
        highest, error = coverage_at(self.density_levels[:, 0], claimed)
        around = np.mean([coverage_at(levels, claimed)[0] for levels in self.reference_levels.T], axis=0)
        columns = {"highest_density": highest, "around_references": around, "standard_error": error}
        return pd.DataFrame(columns, index=pd.Index(claimed, name="level"))

    def to_frame(self) -> pd.DataFrame:
        """Return the tests, a row each: kind, quantity, statistic, p-value, corrected p-value, verdict."""
        return pd.DataFrame([vars(test) for test in self.tests])

    def __repr__(self) -> str:
        return f"Calibration({self.verdict!r}, {self.simulations} simulations, {self.draws} draws, {len(self.tests)} tests)"

    def __str__(self) -> str:
        lines = [
            f"{self.verdict} ({self.simulations} simulations, {self.draws} draws of each, {len(self.tests)} tests)"
        ]
        for test in self.tests:
            if test.verdict != CALIBRATED:
                p = f"p = {test.corrected:.2g} corrected"
                lines.append(f"  {test.kind} of {test.quantity}: {test.verdict} ({test.statistic:.3g}, {p})")
        return "\n".join(lines)
