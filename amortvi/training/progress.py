"""The progress bar of a fit."""

from __future__ import annotations

from types import TracebackType

from tqdm.auto import tqdm

__all__ = ["Progress"]


class Progress:
    """A tqdm bar over all steps of a fit, with the ELBO and the time left; silent when it is not wanted.

    Args:
        epochs: how many epochs the fit takes.
        steps: how many steps an epoch takes, or ``None`` if unknown; the bar then counts epochs.
        visible: whether it is shown.
    """

    def __init__(self, epochs: int, steps: int | None, *, visible: bool) -> None:
        self._per_step = steps is not None
        total = epochs if steps is None else epochs * steps
        self._bar = tqdm(total=total, unit="step" if self._per_step else "epoch", disable=not visible)
        self._epochs = epochs

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self) -> None:
        """One step is done."""
        if self._per_step:
            self._bar.update()

    def epoch(self, number: int, elbo: float, validation_elbo: float) -> None:
        """An epoch is done: show its ELBO, and the validation one where there is one."""
        if not self._per_step:
            self._bar.update()
        self._bar.set_description(f"epoch {number}/{self._epochs}", refresh=False)
        shown = {"elbo": f"{elbo:.2f}"}
        if validation_elbo == validation_elbo:
            shown["validation"] = f"{validation_elbo:.2f}"
        self._bar.set_postfix(shown)
