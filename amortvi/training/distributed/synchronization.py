"""The callback that keeps the processes of a fit equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amortvi.data import DEFAULT_BATCH_SIZE, Observations
from amortvi.errors import OptionError
from amortvi.training.callbacks import Callback, RunningFit
from amortvi.training.distributed.group import Group
from amortvi.training.options import FitOptions

__all__ = ["Synchronization", "describe_call"]

_EQUAL = ("epochs", "batch_size", "lr", "objective", "gradient_clip", "patience")
"""The options that must be the same in all processes."""


class Synchronization(Callback):
    """Gives all processes the state of the first one, in which the other callbacks are called, after them.

    Args:
        group: the processes.
        call: what must be the same in all processes, by name.
        share_state: gives all processes parameters, optimizer and history of the first one.
    """

    def __init__(self, group: Group, call: Mapping[str, str], share_state: Callable[[Group], None]) -> None:
        self._group, self._call, self._share_state = group, call, share_state

    def on_fit_start(self, fit: RunningFit) -> None:
        count, size = len(fit.tensors), sum(tensor.numel() for tensor in fit.tensors)
        call = {**self._call, "parameters and buffers": f"{count} of {size} numbers"}
        expected = self._group.from_first(call)
        other = [
            f"{name}={value} (process 0: {expected[name]})" for name, value in call.items() if value != expected[name]
        ]
        if other:
            raise OptionError(
                f"all {self._group.count} processes must have the same data, options and modules, but process "
                f"{self._group.rank} has {', '.join(other)}: fit divides the data itself."
            )
        self._share_state(self._group)
        state = self._group.from_first({**fit.state_dict(), "callbacks": []} if self._group.is_first else {})
        if not self._group.is_first:
            fit.load_state_dict(state)

    def on_epoch_end(self, fit: RunningFit) -> None:
        status = self._group.from_first(fit.status)
        if status is not None:
            fit.stop(status)
        self._group.copy_from_first(fit.tensors)


def describe_call(options: FitOptions, train: Observations, validation: Observations | None) -> dict[str, str]:
    """Describe what must be the same in all processes of a fit."""
    data = {"x": _described(train), "validation_data": "None" if validation is None else _described(validation)}
    return {**data, **{name: repr(getattr(options, name)) for name in _EQUAL}}


def _described(data: Observations) -> str:
    first = data.first(DEFAULT_BATCH_SIZE).fingerprint() if data.in_memory else data.fingerprint()
    return f"{data.size} observations, of which the first have the hash {first[:8]}"
