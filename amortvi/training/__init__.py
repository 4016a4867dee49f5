"""Training: the fit loop and what it keeps."""

from amortvi.engine import CompileChoice
from amortvi.training.history import EpochRecord, history_frame
from amortvi.training.trainer import FitOptions, OptimizerFactory, ScheduleFactory, Trainer

__all__ = [
    "CompileChoice",
    "EpochRecord",
    "FitOptions",
    "OptimizerFactory",
    "ScheduleFactory",
    "Trainer",
    "history_frame",
]
