"""Early stopping: end a fit when the validation ELBO no longer rises."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from amortvi.training.modules import Snapshot

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Keeps the best values of ``tensors``, and stops a fit after ``patience`` epochs without better ones.

    Attributes:
        best_epoch: the number of the best epoch so far, or 0.
    """

    def __init__(self, patience: int, tensors: Sequence[Tensor]) -> None:
        self.best_epoch = 0
        self._patience = patience
        self._tensors = tensors
        self._best_elbo = -math.inf
        self._best: Snapshot | None = None
        self._epochs_since_best = 0

    def should_stop(self, epoch: int, validation_elbo: float) -> bool:
        """Record one epoch, and return whether to stop."""
        if validation_elbo > self._best_elbo:
            self.best_epoch, self._best_elbo, self._epochs_since_best = epoch, validation_elbo, 0
            self._best = Snapshot(self._tensors)
        else:
            self._epochs_since_best += 1
        return self._epochs_since_best >= self._patience

    def restore(self) -> None:
        """Restore the best parameters."""
        if self._best is not None:
            self._best.restore()
