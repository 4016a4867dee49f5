"""The record of a fit: one row per epoch, and a progress bar."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tqdm.auto import tqdm

from amortvi._util.lazy import pandas as pd

__all__ = ["EpochRecord", "Progress", "history_frame"]


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


class Progress:
    """A progress bar over the steps of a fit, or over its epochs if their number of steps is unknown."""

    def __init__(self, epochs: int, steps: int | None, *, visible: bool) -> None:
        self._counts_steps = steps is not None
        self._per_epoch = steps or 1
        self._bar = tqdm(
            total=epochs * self._per_epoch, unit="step" if self._counts_steps else "epoch", disable=not visible
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """Advance by one step."""
        if self._counts_steps:
            self._bar.update()

    def epoch(self, number: int, epochs: int, elbo: float, validation_elbo: float) -> None:
        """Show the number and the ELBO of an epoch that has ended, and how many there will be."""
        self._bar.total = epochs * self._per_epoch
        if not self._counts_steps:
            self._bar.update()
        self._bar.set_description(f"epoch {number}/{epochs}", refresh=False)
        shown = {"elbo": f"{elbo:.2f}"}
        if not math.isnan(validation_elbo):
            shown["validation"] = f"{validation_elbo:.2f}"
        self._bar.set_postfix(shown, refresh=False)
