"""Calibration: whether posteriors agree with latents drawn from the prior, on data simulated from the model."""

from amortvi.diagnostics.calibration.calibrate import calibrate
from amortvi.diagnostics.calibration.ranks import ecdf_band
from amortvi.diagnostics.calibration.result import Calibration
from amortvi.diagnostics.calibration.verdicts import CalibrationTest

__all__ = ["Calibration", "CalibrationTest", "calibrate", "ecdf_band"]
