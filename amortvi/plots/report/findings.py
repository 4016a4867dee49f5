"""What the diagnostics find about one fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from amortvi._util.text import MISSING, with_error
from amortvi.diagnostics.calibration import Calibration, calibrate
from amortvi.diagnostics.evidence import MOST_UNRELIABLE, Evidence, evidence
from amortvi.diagnostics.gaps import Diagnosis, diagnose
from amortvi.errors import AmortviError, FamilyError
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.training import Convergence

__all__ = ["CHECKED", "Findings", "Gap", "Work", "examine"]

CHECKED = 100
"""The number of simulated observations on which the estimates of the evidence are checked."""
_NEGLIGIBLE = 0.01
"""A gap below this is not reported with its digits."""


@dataclass(frozen=True)
class Work:
    """How much is computed.

    Args:
        draws: draws for each bound and for the evidence.
        simulations: the number of simulated observations for the calibration; 0 omits it.
        ranked: the number of posterior draws among which the truth of each of them is ranked.
        tolerance: the largest inference gap that is ok.
        seed: the seed of all draws.
    """

    draws: int
    simulations: int
    ranked: int
    tolerance: float
    seed: int


@dataclass(frozen=True)
class Gap:
    """The mean inference gap over the observations whose evidence is reliable, in nats per observation.

    Args:
        mean: the gap; NaN if there is no such observation.
        noise: its Monte Carlo standard error.
        standard_error: its standard error, which includes the variation between observations; NaN if there is only one.
        count: the number of observations.
        unknown: how many of them are not reliable.
    """

    mean: float
    noise: float
    standard_error: float
    count: int
    unknown: int

    @property
    def known(self) -> bool:
        """Whether most observations are reliable."""
        return self.unknown <= MOST_UNRELIABLE * self.count

    def is_within(self, tolerance: float) -> bool:
        """Whether the gap exceeds the tolerance by at most two standard errors."""
        return self.mean <= tolerance + 2 * self.noise

    def __str__(self) -> str:
        if not self.known:
            return "unknown"
        if self.mean < _NEGLIGIBLE:
            return f"less than {_NEGLIGIBLE:g} nats per observation"
        digits = 3 if self.standard_error < _NEGLIGIBLE / 2 else 2
        return (
            f"{with_error(self.mean, self.standard_error, digits).removesuffix(f' ± {MISSING}')} nats per observation"
        )


@dataclass(frozen=True)
class Findings:
    """What the diagnostics find about one fit.

    Args:
        name: the name of the fit.
        vi: the estimator.
        posterior: the posterior of the observations.
        amortized: bounds and k-hat of that posterior.
        diagnosis: the gaps and their causes; ``None`` if the family cannot be refined.
        unrefined: why not; empty if it can.
        calibration: the calibration; ``None`` if it was not computed.
        uncalibrated: why not; empty if it was.
    """

    name: str
    vi: AmortizedVI
    posterior: Posterior
    amortized: Evidence
    diagnosis: Diagnosis | None
    unrefined: str
    calibration: Calibration | None
    uncalibrated: str

    @property
    def convergence(self) -> Convergence:
        """How the fit ended."""
        assert self.vi.convergence is not None  # checked before anything is computed
        return self.vi.convergence

    @property
    def frozen(self) -> bool:
        """Whether training can gain no more than the inference gap."""
        return self.vi.freeze_model or next(self.vi.generative.parameters(), None) is None

    @property
    def reliable_share(self) -> float:
        """The share of observations whose draws can be importance-weighted reliably."""
        return float(self.amortized.light_tailed.double().mean())

    @cached_property
    def gap(self) -> Gap:
        """The mean inference gap."""
        if self.diagnosis is not None:
            judged = self.diagnosis.judged
            gaps, noise, reliable = judged.inference, judged.inference_se, judged.reliable
        else:
            found, reliable = self.amortized, self.amortized.reliable
            gaps = found.smoothed - found.elbo
            noise = (found.standard_error.square() + found.elbo_se.square()).sqrt()
        gaps, number = gaps[reliable], int(reliable.sum())
        return Gap(
            mean=float(gaps.mean()),
            noise=float(noise[reliable].square().sum().sqrt()) / max(number, 1),
            standard_error=float(gaps.std()) / math.sqrt(number) if number > 1 else math.nan,
            count=len(reliable),
            unknown=len(reliable) - number,
        )


def examine(name: str, vi: AmortizedVI, x: Any, work: Work) -> Findings:
    """Diagnose one fit.

    Raises:
        AmortviError: the posteriors of the observations cannot be computed.
    """
    posterior = vi.posterior(x, copy=False)
    diagnosis, unrefined = None, ""
    try:
        diagnosis = diagnose(vi, x, draws=work.draws, simulations=CHECKED, tolerance=work.tolerance, seed=work.seed)
        amortized = diagnosis.gaps.amortized
    except FamilyError as error:  # the family cannot be refined; the other results are reported
        unrefined = str(error)
        amortized = evidence(vi, posterior=posterior, draws=work.draws, simulations=CHECKED, seed=work.seed)
    calibration, uncalibrated = None, ""
    try:
        if work.simulations:
            calibration = calibrate(vi, work.simulations, work.ranked, x, seed=work.seed)
    except AmortviError as error:  # not every model can be simulated
        uncalibrated = str(error)
    return Findings(name, vi, posterior, amortized, diagnosis, unrefined, calibration, uncalibrated)
