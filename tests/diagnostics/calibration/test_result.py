"""The result of a calibration: correction for multiple tests, names of faults, tables and text."""

from __future__ import annotations

import numpy as np
import pytest

from amortvi.diagnostics.calibration import Calibration, CalibrationTest
from amortvi.diagnostics.calibration.verdicts import holm_corrected
from amortvi.errors import OptionError


def result(*tests: tuple[str, str, float], levels: int = 4) -> Calibration:
    """Return a calibration with tests given by kind, fault and p-value."""
    found = holm_corrected([CalibrationTest(kind, "z", 0.5, p, fault) for kind, fault, p in tests])
    uniform = (np.arange(levels) + 0.5)[:, None] / levels
    return Calibration(10, found, {"z": uniform[:, 0]}, uniform, np.repeat(uniform, 2, axis=1), np.zeros((levels, 1)))


def test_the_correction_of_holm() -> None:
    tests = result(*(("marginal", "shifted", p) for p in (0.01, 0.04, 0.03, 0.005))).tests
    assert [test.corrected for test in tests] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [test.verdict for test in tests] == ["shifted", "calibrated", "calibrated", "shifted"]


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ([("spread", "too narrow", 0.5), ("joint", "not calibrated", 0.5)], "calibrated"),
        ([("location", "shifted", 0.0), ("marginal", "too narrow", 0.0)], "shifted"),
        ([("spread", "not calibrated", 0.0), ("marginal", "too wide", 0.0), ("marginal", "too wide", 0.0)], "too wide"),
        ([("spread", "too wide", 0.0), ("correlation", "wrong correlation", 0.0)], "too wide, wrong correlation"),
        ([("coverage", "overconfident", 0.0), ("marginal", "shifted", 0.9)], "not calibrated"),
    ],
)
def test_the_verdict_names_the_faults_that_are_significant(tests: list[tuple[str, str, float]], verdict: str) -> None:
    calibration = result(*tests)
    assert calibration.verdict == verdict
    assert calibration.is_calibrated == (verdict == "calibrated")
    assert calibration.faults == (() if verdict == "calibrated" else tuple(verdict.split(", ")))


def test_frame_and_text() -> None:
    calibration = result(("spread", "too narrow", 0.001), ("joint", "not calibrated", 0.2))
    frame = calibration.to_frame()
    assert list(frame.columns) == ["kind", "quantity", "statistic", "p_value", "corrected", "verdict"]
    assert frame["corrected"].tolist() == [0.002, 0.2]
    assert repr(calibration) == "Calibration('too narrow', 4 simulations, 10 draws, 2 tests)"
    assert str(calibration).splitlines() == [
        "too narrow (4 simulations with 10 draws each, 2 tests)",
        "  spread of z: too narrow (0.5, corrected p = 0.002)",
    ]


def test_the_coverage_of_uniform_levels_is_the_claimed_probability() -> None:
    calibration = result(("spread", "too narrow", 0.5), levels=1000)
    errors = np.sqrt([0.25 / 1000, 0.09 / 1000])
    np.testing.assert_allclose(calibration.coverage([0.5, 0.9]), np.stack([[0.5, 0.9], [0.5, 0.9], errors], axis=1))
    assert calibration.area_to_curve == pytest.approx(0, abs=1e-6)
    for wrong in ([0.0, 0.5], [1.0], [], [[0.5]]):
        with pytest.raises(OptionError, match="levels"):
            calibration.coverage(wrong)
