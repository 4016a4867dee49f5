"""One verdict per fit: rules in order, each with what to do next."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from amortvi.diagnostics.calibration import CalibrationTest
from amortvi.plots.report.findings import Findings, Work, examine
from amortvi.plots.report.verdicts import calibration_faults, failure_verdict, judge
from amortvi.training import Convergence, Status
from amortvi.training.learning_curve import Gain
from tests.exact import linear_gaussian, solved

WORK = Work(draws=200, simulations=100, ranked=50, tolerance=0.1, seed=0)


def convergence(status: Status, gain: float = 0.0) -> Convergence:
    return Convergence(status, 3, Gain(gain, 0.001), 5.0, is_validated=False)


@pytest.fixture(scope="module")
def found(x: Tensor) -> Findings:
    """The findings about an exact posterior."""
    vi = solved(linear_gaussian(3, 4)).fit(x, epochs=1, lr=1e-12, standardize=False, seed=0, progress=False)
    return ended(examine("full", vi, x[:20], WORK), "converged")


def ended(found: Findings, status: Status, *, frozen: bool = True, gain: float = 0.0, loss: float = 0.0) -> Findings:
    """Return findings about a fit that ended otherwise, with a bound that is lower by ``loss``."""

    class Changed(Findings):
        convergence = convergence(status, gain)  # type: ignore[assignment]  # in place of a property

    changed: Any = {name: getattr(found, name) for name in Findings.__dataclass_fields__}
    diagnosis = found.diagnosis
    assert diagnosis is not None
    worse = replace(diagnosis.gaps.amortized, elbo=diagnosis.gaps.amortized.elbo - loss)
    gaps = replace(diagnosis.gaps, amortized=worse)
    changed["diagnosis"] = replace(diagnosis, gaps=gaps, convergence=Changed.convergence, frozen=frozen)
    Changed.frozen = frozen  # type: ignore[assignment,misc]
    return Changed(**changed)


def calibrated(found: Findings, *tests: CalibrationTest) -> Findings:
    """Return findings with the faults of ``tests`` alone."""
    assert found.calibration is not None
    passed = tuple(replace(test, verdict="calibrated") for test in found.calibration.tests)
    return replace(found, calibration=replace(found.calibration, tests=(*passed, *tests)))


def test_an_exact_posterior_is_good(found: Findings) -> None:
    verdict = judge(calibrated(found), 0.1)
    assert (verdict.level, verdict.label) == ("ok", "Good")
    assert "calibration finds no fault" in verdict.reason
    assert verdict.action == "nothing needs to be done"


@pytest.mark.parametrize("status", ["interrupted", "falling", "still rising", "budget", "stopped"])
def test_an_unfinished_training_comes_first(found: Findings, status: Status) -> None:
    gain = {"falling": -0.5, "still rising": 0.5}.get(status, math.nan)
    verdict = judge(ended(found, status, frozen=False, gain=gain, loss=2.0), 0.1)
    assert verdict.label == ("Cut short" if status == "interrupted" else "Not converged")
    assert verdict.level == ("error" if status == "interrupted" else "warning")
    assert verdict.action


def test_a_frozen_model_that_can_gain_nothing_has_no_unfinished_training(found: Findings) -> None:
    assert judge(calibrated(ended(found, "budget", gain=math.nan)), 0.1).label == "Good"
    assert judge(calibrated(ended(found, "budget", gain=math.nan, loss=2.0)), 0.1).label == "Not converged"
    assert judge(calibrated(ended(found, "interrupted", gain=math.nan)), 0.1).label == "Cut short"


def test_what_the_encoder_loses(found: Findings) -> None:
    verdict = judge(ended(found, "converged", loss=2.0), 0.1)
    assert verdict.label == "Limited by its encoder"
    assert abs(float(verdict.reason.split()[0]) - 2) < 0.1
    assert "vi.refine" in verdict.action


def test_unknown_evidence(found: Findings) -> None:
    assert found.diagnosis is not None
    gaps = found.diagnosis.gaps
    heavy = replace(gaps.proposed, k_hat=torch.full((20,), 2.0))
    unknown = replace(found, diagnosis=replace(found.diagnosis, gaps=replace(gaps, proposed=heavy)))
    verdict = judge(unknown, 0.1)
    assert verdict.label == "Unknown"
    assert "20 of 20" in verdict.reason


def test_without_gaps_the_weights_of_the_posterior_say_what_is_lost(found: Findings) -> None:
    alone = calibrated(replace(found, diagnosis=None))
    assert judge(alone, 0.1).label == "Good"
    worse = replace(alone.amortized, elbo=alone.amortized.elbo - 1)
    assert judge(replace(alone, amortized=worse), 0.1).label == "Inference gap"


def test_only_a_fault_of_calibration_that_matters_counts(found: Findings) -> None:
    def spread(ratio: float) -> CalibrationTest:
        return CalibrationTest("spread", "whitened latents", ratio, 1e-50, "too narrow", 1e-50)

    small = judge(calibrated(found, spread(1.03)), 0.1)
    assert small.label == "Good"
    assert "negligible" in small.reason
    large = judge(calibrated(found, spread(1.3)), 0.1)
    assert large.label == "Miscalibrated"
    assert "too narrow (the truth varies 1.30 times" in large.reason
    missing = CalibrationTest("correlation", "whitened latents", 0.4, 1e-9, "missing correlation", 1e-9)
    assert "'full'" in judge(calibrated(found, missing), 0.1).action


def test_named_faults_come_before_others(found: Findings) -> None:
    assert found.calibration is not None
    tests = (
        CalibrationTest("joint", "log {joint}", 0.9, 0.0, "not calibrated", 0.0),
        CalibrationTest("location", "whitened latents", 0.2, 0.0, "shifted", 0.0),
    )
    faults = calibration_faults(replace(found.calibration, tests=tests))
    assert [fault.verdict for fault in faults] == ["shifted", "not calibrated"]
    assert faults[1].text == "not calibrated in the ranks of log {joint}"


def test_heavy_tails_are_named_where_nothing_else_is_wrong(found: Findings) -> None:
    heavy = calibrated(replace(found, amortized=replace(found.amortized, k_hat=torch.full((20,), 2.0))))
    verdict = judge(heavy, 0.1)
    assert verdict.label == "Good"
    assert "k-hat" in verdict.action


def test_a_failure_quotes_its_error() -> None:
    assert failure_verdict(ValueError("too small.")).reason == "ValueError: too small"
