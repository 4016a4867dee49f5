"""Training: the fit loop, its options, and its steps, eager or compiled."""

from amortvi.training.callbacks import Callback, ResumingCallback, RunningFit
from amortvi.training.convergence import FINISHED, Convergence, Status
from amortvi.training.distributed import Group, join
from amortvi.training.history import EpochRecord, history_frame
from amortvi.training.options import (
    EncoderOptions,
    FitOptions,
    OptimizerFactory,
    ScheduleFactory,
    check_device,
    check_dtype,
)
from amortvi.training.trainer import Trainer

__all__ = [
    "FINISHED",
    "Callback",
    "Convergence",
    "EncoderOptions",
    "EpochRecord",
    "FitOptions",
    "Group",
    "OptimizerFactory",
    "ResumingCallback",
    "RunningFit",
    "ScheduleFactory",
    "Status",
    "Trainer",
    "check_device",
    "check_dtype",
    "history_frame",
    "join",
]
