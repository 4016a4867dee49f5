"""The progress bar."""

from __future__ import annotations

import math

from tqdm.auto import tqdm

from amortvi.training.callbacks.base import Callback, RunningFit

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Shows the ELBO, the validation ELBO and the time left, by steps or, if their number is unknown, by epochs.

    ``fit(progress=True)``, the default, adds one.
    """

    def on_fit_start(self, fit: RunningFit) -> None:
        self._first = fit.epoch
        self._bar = tqdm(total=self._total(fit), unit="epoch" if fit.steps is None else "step")

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
