"""What a fit did, a row an epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EpochRecord", "history_frame"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch; ELBO and its parts are means an observation, in nats.

    Args:
        epoch: its number, from 1.
        elbo: over the training batches, each before its update.
        reconstruction: ``E_q[log p(x | z)]`` over the same.
        kl: ``KL(q || p(z))`` over the same.
        validation_elbo: after the epoch, on the validation data; NaN where there are none.
        validation_reconstruction: its first part.
        validation_kl: its second part.
        learning_rate: of the first parameter group, during the epoch.
        seconds: wall-clock time, validation included.
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
    """Return the records as a data frame indexed by epoch; without validation data its columns are left out."""
    import pandas as pd  # imported where it is used: it would double the time that importing amortvi takes

    columns = list(EpochRecord.__dataclass_fields__)
    frame = pd.DataFrame([asdict(record) for record in records], columns=columns).set_index("epoch")
    if all(math.isnan(record.validation_elbo) for record in records):
        frame = frame[[column for column in frame if not str(column).startswith("validation_")]]
    return frame
