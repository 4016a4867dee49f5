"""A short fit, and a callback that stops it."""

from typing import Any

from amortvi.training.callbacks import Callback, RunningFit

SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 150, "seed": 0, "progress": False}
"""Three epochs of two steps."""


class StopAfter(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, fit: RunningFit) -> None:
        if fit.epoch == self.epoch:
            fit.stop()
