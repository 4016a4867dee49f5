"""The error of a fit that diverges: where it happened, and which sites and observations were involved."""

from __future__ import annotations

from amortvi.data import Minibatch, Observations
from amortvi.errors import NonFiniteError, TrainingDiverged
from amortvi.training.steps import NonFiniteStepError

__all__ = ["diverged"]

_LISTED = 10
"""The rows that a message lists."""


def diverged(
    error: NonFiniteError, minibatch: Minibatch, data: Observations, epoch: int, step: int
) -> TrainingDiverged:
    """Return the error of a fit whose step on ``minibatch`` of the training data has failed with ``error``."""
    sites, rows = (list(error.sites), list(error.rows)) if isinstance(error, NonFiniteStepError) else ([], [])
    place = "the minibatch"
    if minibatch.rows is not None:
        rows, place = sorted(data.positions(minibatch.rows[rows]).tolist()), data.name
    shown = ", ".join(map(str, rows[:_LISTED])) + (", ..." if len(rows) > _LISTED else "")
    where = f" (rows {shown} of {place})" if 0 < len(rows) < minibatch.size else ""
    return TrainingDiverged(
        f"training stopped at epoch {epoch}, step {step}: {error}{where}. The parameters are those before epoch {epoch}. A "
        f"smaller lr or gradient_clip, or data on a smaller scale usually helps.",
        epoch=epoch,
        step=step,
        sites=sites,
        rows=rows,
    )
