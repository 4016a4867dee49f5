"""The history of a fit, one row per epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from amortvi._util.lazy import pandas as pd

__all__ = ["EpochRecord", "history_frame"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch; the ELBO and its parts are means per observation, in nats.

    Args:
        epoch: its number, from 1.
        elbo: the ELBO of the training batches, each before its update.
        reconstruction: ``E_q[log p(x | z)]`` of the same batches.
        kl: ``KL(q || p(z))`` of the same batches.
        validation_elbo: the ELBO of the validation data after the epoch; NaN if there are none.
        validation_reconstruction: its first part.
        validation_kl: its second part.
        learning_rate: that of the first parameter group, during the epoch.
        seconds: wall-clock time, including validation.
    """

    epoch: int
    elbo: float
    reconstruction: float
    kl: float
    validation_elbo: float
    validation_reconstruction: float
    validation_kl: float
    learning_rate: float
    seconds: float


def history_frame(records: list[EpochRecord]) -> pd.DataFrame:
    """Return the records as a DataFrame indexed by epoch; without validation data its columns are omitted."""
    columns = list(EpochRecord.__dataclass_fields__)
    frame = pd.DataFrame([asdict(record) for record in records], columns=columns).set_index("epoch")
    if all(math.isnan(record.validation_elbo) for record in records):
        frame = frame[[column for column in frame if not str(column).startswith("validation_")]]
    return frame
