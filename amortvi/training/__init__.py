"""Training: the fit loop and what it keeps."""

from amortvi.training.history import EpochRecord, history_frame
from amortvi.training.trainer import FitOptions, OptimizerFactory, ScheduleFactory, Trainer

__all__ = ["EpochRecord", "FitOptions", "OptimizerFactory", "ScheduleFactory", "Trainer", "history_frame"]
