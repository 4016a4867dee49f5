"""The progress bar of a fit."""

from __future__ import annotations

import math
from types import TracebackType

from tqdm.auto import tqdm

__all__ = ["Progress"]


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
