"""The result of `calibrate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amortvi._util.lazy import pandas as pd
from amortvi._util.text import html_summary, number, p_value
from amortvi.diagnostics.calibration.coverage import area_to_curve, coverage_at
from amortvi.diagnostics.calibration.verdicts import CALIBRATED, NOT_CALIBRATED, Array, CalibrationTest
from amortvi.errors import OptionError

__all__ = ["Calibration"]

_LISTED = 20
"""The number of tests that a notebook shows."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How well a posterior is calibrated on data simulated from the model; see `calibrate`.

    Args:
        draws: ``K``, the number of posterior draws for each of the ``n`` simulations.
        tests: all tests.
        ranks: for each quantity the ranks of the truth among the draws, scaled to (0, 1), ``(n,)``.
        density_levels: the probability under ``q`` of the highest-density region on whose boundary the truth lies,
            ``(n, 1)``.
        reference_levels: the same for balls around random reference points (TARP), ``(n, references)``.
        whitened: the truth in units of its posterior, ``(n, D)``; mean 0, variance 1 and no correlation if ``q`` is exact.
    """

    draws: int
    tests: tuple[CalibrationTest, ...]
    ranks: Mapping[str, Array]
    density_levels: Array
    reference_levels: Array
    whitened: Array

    @property
    def simulations(self) -> int:
        """``n``, the number of simulations."""
        return len(self.density_levels)

    @property
    def is_calibrated(self) -> bool:
        """Whether no test finds a fault."""
        return all(test.verdict == CALIBRATED for test in self.tests)

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults of the posterior; empty if no test finds one."""
        # Only these kinds of tests name a fault; a marginal test names it if the others find none.
        for kinds in ({"location", "spread", "correlation"}, {"marginal"}):
            verdicts = [test.verdict for test in self.tests if test.kind in kinds]
            named = dict.fromkeys(verdict for verdict in verdicts if verdict not in (CALIBRATED, NOT_CALIBRATED))
            if named:
                return tuple(named)
        return () if self.is_calibrated else (NOT_CALIBRATED,)

    @property
    def verdict(self) -> str:
        """The faults, or ``"calibrated"``."""
        return ", ".join(self.faults) or CALIBRATED

    @property
    def area_to_curve(self) -> float:
        """The mean area between the TARP coverage and the diagonal above one half; negative if ``q`` is overconfident."""
        return area_to_curve(self.reference_levels)[0]

    def coverage(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> pd.DataFrame:
        """Return how often regions of ``q`` contain the truth.

        Args:
            levels: the probabilities that the regions claim, strictly between 0 and 1.

        Returns:
            One row per level. Columns: ``highest_density`` (Hermans et al., 2022); ``around_references`` (TARP, averaged over
            the reference points); and ``standard_error``, the standard error of the first column if ``q`` is exact. That of
            the second column is smaller.

        Raises:
            OptionError: a level is not strictly between 0 and 1.
        """
        claimed = np.asarray(levels, dtype=np.float64)
        if claimed.ndim != 1 or not claimed.size or not bool(((claimed > 0) & (claimed < 1)).all()):
            raise OptionError(f"levels must be probabilities strictly between 0 and 1; got {levels!r}.")
        highest, error = coverage_at(self.density_levels[:, 0], claimed)
        around = np.mean([coverage_at(family, claimed)[0] for family in self.reference_levels.T], axis=0)
        columns = {"highest_density": highest, "around_references": around, "standard_error": error}
        return pd.DataFrame(columns, index=pd.Index(claimed, name="level"))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per test: kind, quantity, statistic, p-value, corrected p-value, verdict."""
        columns = ["kind", "quantity", "statistic", "p_value", "corrected", "verdict"]
        return pd.DataFrame([vars(test) for test in self.tests], columns=columns)

    def _repr_html_(self) -> str:
        tests = sorted(self.tests, key=lambda test: test.corrected)
        more = len(tests) - _LISTED
        return html_summary(
            f"Calibration: {self.verdict}",
            {"simulations": f"{self.simulations:,}, with {self.draws:,} draws each"},
            header=["test", "quantity", "verdict", "effect", "p (corrected)"],
            rows=[
                (test.kind, test.quantity, test.verdict, number(float(test.statistic)), p_value(test.corrected))
                for test in tests[:_LISTED]
            ],
            notes=[f"{more} more tests, with larger p-values, are in to_frame()."] * (more > 0),
        )

    def __repr__(self) -> str:
        return f"Calibration({self.verdict!r}, {self.simulations} simulations, {self.draws} draws, {len(self.tests)} tests)"

    def __str__(self) -> str:
        text = f"{self.verdict} ({self.simulations} simulations with {self.draws} draws each, {len(self.tests)} tests)"
        for test in self.tests:
            if test.verdict != CALIBRATED:
                details = f"{test.statistic:.3g}, corrected p = {test.corrected:.2g}"
                text += f"\n  {test.kind} of {test.quantity}: {test.verdict} ({details})"
        return text
