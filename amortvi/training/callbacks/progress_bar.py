"""The progress bar."""

from __future__ import annotations

import math

from amortvi._util.progress import progress_bar
from amortvi.training.callbacks.base import Callback, RunningFit

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Shows the ELBO, the validation ELBO and the time left, by steps or, if their number is unknown, by epochs.

    ``fit`` adds one unless ``progress=False``.

    Args:
        progress: whether to show the bar; by default in notebooks and if standard error is a terminal, so that log files contain
            none.
    """

    def __init__(self, progress: bool | None = None) -> None:
        self._progress = progress

    def on_fit_start(self, fit: RunningFit) -> None:
        self._first = fit.epoch
        unit = "epoch" if fit.steps is None else "step"
        self._bar = progress_bar(self._progress, total=self._total(fit), unit=unit)

    def on_step_end(self, fit: RunningFit) -> None:
        if fit.steps is not None:
            self._bar.update()

    def on_epoch_end(self, fit: RunningFit) -> None:
        self._bar.total = self._total(fit)
        if fit.steps is None:
            self._bar.update()
        self._bar.set_description(f"epoch {fit.epoch}/{fit.last_epoch}", refresh=False)
        record = fit.history[-1]
        shown = {"elbo": f"{record.elbo:.2f}"}
        if not math.isnan(record.validation_elbo):
            shown["validation"] = f"{record.validation_elbo:.2f}"
        self._bar.set_postfix(shown, refresh=False)

    def on_fit_end(self, fit: RunningFit) -> None:
        self._bar.close()

    def _total(self, fit: RunningFit) -> int:
        return (fit.last_epoch - self._first + 1) * (fit.steps or 1)
