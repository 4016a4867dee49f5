"""The record of a fit: one row per epoch, and a progress bar."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from types import TracebackType

from tqdm.auto import tqdm

from amortvi._util.lazy import pandas as pd

__all__ = ["EpochRecord", "Progress", "history_frame"]


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


class Progress:
    """A tqdm bar over all steps of a fit, with the ELBO and the time left.

    Args:
        epochs: the number of epochs.
        steps: the number of steps per epoch, or ``None`` if unknown; the bar then counts epochs.
        visible: whether it is shown.
    """

    def __init__(self, epochs: int, steps: int | None, *, visible: bool) -> None:
        self._counts_steps = steps is not None
        total = epochs if steps is None else epochs * steps
        self._bar = tqdm(total=total, unit="step" if self._counts_steps else "epoch", disable=not visible)
        self._epochs = epochs

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self) -> None:
        """Record the end of a step."""
        if self._counts_steps:
            self._bar.update()

    def epoch(self, number: int, elbo: float, validation_elbo: float) -> None:
        """Record the end of an epoch, and show its ELBO."""
        if not self._counts_steps:
            self._bar.update()
        self._bar.set_description(f"epoch {number}/{self._epochs}", refresh=False)
        shown = {"elbo": f"{elbo:.2f}"}
        if not math.isnan(validation_elbo):
            shown["validation"] = f"{validation_elbo:.2f}"
        self._bar.set_postfix(shown)
