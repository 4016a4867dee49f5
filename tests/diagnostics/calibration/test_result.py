"""Ranks with their shapes and band; verdicts, tables and text of a calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from amortvi.diagnostics.calibration import Calibration, CalibrationTest, ecdf_band
from amortvi.diagnostics.calibration.ranks import shape_of, uniform_ranks, uniformity
from amortvi.diagnostics.calibration.verdicts import holm_corrected
from amortvi.errors import OptionError


def test_ranks_are_uniform_for_draws_of_one_distribution_with_and_without_ties() -> None:
    torch.manual_seed(0)
    for values in (torch.randn(11, 5000), torch.randint(3, (11, 5000)).double(), torch.zeros(11, 5000)):
        assert uniformity(uniform_ranks(values[0], values[1:]).numpy())[1] > 1e-6
    values = torch.randn(11, 20000)
    for other in (values[0] + 0.2, 1.2 * values[0]):
        assert uniformity(uniform_ranks(other, values[1:]).numpy())[1] < 1e-6


def test_shapes_of_ranks_are_named() -> None:
    scores = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    shapes = [shape_of(stats.norm.cdf(values)) for values in (1.5 * scores, 0.6 * scores, scores + 0.5, scores)]
    assert shapes == ["too narrow", "too wide", "shifted", "not calibrated"]
    assert shape_of(np.full(100, 0.999)) == "shifted"


@pytest.mark.parametrize(("simulations", "probability"), [(50, 0.95), (1000, 0.8)])
def test_a_band_contains_uniform_ranks_with_its_probability(simulations: int, probability: float) -> None:
    at, lower, upper = ecdf_band(simulations, probability=probability, points=40)
    runs = 2000
    counts = np.random.default_rng(1).multinomial(simulations, np.full(40, 1 / 40), size=runs)
    function = counts.cumsum(axis=1) / simulations
    inside = ((lower <= function) & (function <= upper)).all(axis=1).mean()
    # The band, estimated from 4000 simulations, and this fraction both vary; counts are discrete, so it may contain more.
    error = 5 * (probability * (1 - probability) * (1 / runs + 1 / 4000)) ** 0.5
    assert probability - error < inside < probability + error + 0.03
    assert lower[-1] == upper[-1] == at[-1] == 1


@pytest.mark.parametrize("options", [{"simulations": 0}, {"points": 1.5}, {"probability": 1.0}])
def test_bad_options_of_the_band(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        ecdf_band(**{"simulations": 10, **options})


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
