"""Callbacks of a fit: what is called after each step and epoch, and may end the fit."""

from amortvi.training.callbacks.base import Callback, ResumingCallback, RunningFit
from amortvi.training.callbacks.early_stopping import EarlyStopping
from amortvi.training.callbacks.logging import MLflow, TensorBoard, WeightsAndBiases
from amortvi.training.callbacks.progress_bar import ProgressBar

__all__ = [
    "Callback",
    "EarlyStopping",
    "MLflow",
    "ProgressBar",
    "ResumingCallback",
    "RunningFit",
    "TensorBoard",
    "WeightsAndBiases",
]
