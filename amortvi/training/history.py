"""The record of a fit: one row per epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from amortvi._util.lazy import pandas as pd

__all__ = ["EpochRecord", "history_frame"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch; the ELBO and its parts are means per observation, in nats.

    Args:
        epoch: the number of the epoch, from 1.
        elbo: the ELBO of the training batches, each before its update.
        reconstruction: ``E_q[log p(x | z)]`` of the training batches.
        kl: ``KL(q || p(z))`` of the training batches.
        validation_elbo: the ELBO of the validation data after the epoch, or NaN without validation data; likewise its parts.
        learning_rate: the learning rate of the first parameter group during the epoch.
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
    """Return the records as a DataFrame indexed by epoch, without the columns of validation data if there are none."""
    names = list(EpochRecord.__dataclass_fields__)
    frame = pd.DataFrame([vars(record) for record in records], columns=names).set_index("epoch")
    validated = not all(math.isnan(record.validation_elbo) for record in records)
    return frame if validated else frame.filter(regex="^(?!validation_)")
