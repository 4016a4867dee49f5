"""Stop when the validation ELBO no longer rises."""

from __future__ import annotations

from amortvi.engine import State
from amortvi.training.snapshot import Snapshot

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Keeps the best parameters, and says when enough epochs have passed without better ones.

    Args:
        patience: how many epochs without a rise are waited for.
        state: of the modules whose parameters are kept.
    """

    def __init__(self, patience: int, state: State) -> None:
        self.patience = patience
        self._state = state
        self._best = -float("inf")
        self._kept: Snapshot | None = None
        self._waited = 0

    def is_done(self, validation_elbo: float) -> bool:
        """Count one epoch in, and say whether to stop."""
        if validation_elbo > self._best:
            self._best, self._waited = validation_elbo, 0
            self._kept = Snapshot(self._state)
        else:
            self._waited += 1
        return self._waited >= self.patience

    def restore(self) -> None:
        """Go back to the best parameters."""
        if self._kept is not None:
            self._kept.restore()
