"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi.training.callbacks.base import Callback, RunningFit
from amortvi.training.modules import Snapshot

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Stops a fit that has not raised its validation ELBO for some epochs, and restores the best parameters.

    ``fit(patience=...)`` adds one.

    Args:
        patience: the number of epochs without a higher validation ELBO.

    Raises:
        OptionError: ``patience`` is not a positive integer.
    """

    def __init__(self, patience: int) -> None:
        self.patience = positive_int("patience", patience)
        self._reset()

    def _reset(self) -> None:
        self.best_epoch = 0
        """The number of the best epoch so far, or 0."""
        self._best_elbo = -math.inf
        self._best: Snapshot | None = None
        self._epochs_since_best = 0

    def on_fit_start(self, fit: RunningFit) -> None:
        self._reset()
        self._tensors: Sequence[Tensor] = fit.tensors

    def on_epoch_end(self, fit: RunningFit) -> None:
        elbo = fit.history[-1].validation_elbo
        if elbo > self._best_elbo:
            self.best_epoch, self._best_elbo, self._epochs_since_best = fit.epoch, elbo, 0
            self._best = Snapshot(self._tensors)
        else:
            self._epochs_since_best += 1
        if self._epochs_since_best >= self.patience:
            fit.stop("stopped early")

    def on_fit_end(self, fit: RunningFit) -> None:
        if self._best is not None:
            self._best.restore()

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_epoch": self.best_epoch,
            "best_elbo": self._best_elbo,
            "best": None if self._best is None else list(self._best.values),
            "epochs_since_best": self._epochs_since_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_epoch, self._best_elbo = state["best_epoch"], state["best_elbo"]
        self._epochs_since_best = state["epochs_since_best"]
        self._best = None if state["best"] is None else Snapshot(self._tensors, state["best"])
