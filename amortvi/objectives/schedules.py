r"""Weights that change during training.

A posterior that collapses to the prior before the decoder has learned to use its latents rarely recovers. Bowman et al. (2016)
therefore increase the weight of the KL linearly from zero; Fu et al. (2019) do so several times, so that each cycle starts
with latents that earlier cycles have made informative.

A schedule is any function from the passes over the data so far, fractional within an epoch, to the weight. Passes are counted
like the epochs in `AmortizedVI.history`: another ``fit`` continues where the last one ended, and with the same objective object
it reuses the compiled steps. To start a schedule later, shift it: ``lambda epochs: schedule(epochs - 50)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from amortvi._util.checks import nonnegative_float, positive_float, positive_int
from amortvi.errors import OptionError

__all__ = ["CyclicalSchedule", "LinearSchedule", "ScheduledWeight", "WeightSchedule"]

WeightSchedule: TypeAlias = Callable[[float], float]
"""Maps the passes over the data so far to a weight."""


@dataclass(frozen=True)
class LinearSchedule:
    """Linear from ``start`` to ``stop``, then constant (Bowman et al., 2016).

    Args:
        epochs: passes over the data until ``stop`` is reached.
        start: the initial weight.
        stop: the final weight.

    Raises:
        OptionError: ``epochs`` is not positive, or a weight is negative.

    Example:
        >>> schedule = LinearSchedule(epochs=20, start=0.1)
        >>> schedule(0), schedule(10), schedule(30)
        (0.1, 0.55, 1.0)
    """

    epochs: float
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        _convert(self, epochs=positive_float, start=nonnegative_float, stop=nonnegative_float)

    def __call__(self, epochs: float) -> float:
        """Return the weight after ``epochs`` passes."""
        return _between(self.start, self.stop, epochs / self.epochs)


@dataclass(frozen=True)
class CyclicalSchedule:
    """Cycles that are linear from ``start`` to ``stop`` and then constant for the rest of the cycle (Fu et al., 2019).

    Args:
        epochs: passes over the data for all cycles together; the weight is ``stop`` from then on.
        cycles: the number of cycles.
        rising: the fraction of a cycle during which the weight rises.
        start: the weight at the start of a cycle.
        stop: the weight at its end.

    Raises:
        OptionError: ``epochs`` or ``cycles`` is not positive, ``rising`` is not in (0, 1], or a weight is negative.

    Example:
        >>> schedule = CyclicalSchedule(epochs=40, cycles=2)
        >>> [schedule(passed) for passed in (0, 5, 10, 19, 20, 25, 40)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0]
    """

    epochs: float
    cycles: int = 4
    rising: float = 0.5
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        _convert(self, epochs=positive_float, cycles=positive_int, rising=positive_float)
        _convert(self, start=nonnegative_float, stop=nonnegative_float)
        if self.rising > 1:
            raise OptionError(f"rising must be a fraction of a cycle, at most 1; got {self.rising}.")

    def __call__(self, epochs: float) -> float:
        """Return the weight after ``epochs`` passes."""
        if epochs >= self.epochs:
            return self.stop
        passed = max(0.0, epochs) * self.cycles / self.epochs
        return _between(self.start, self.stop, (passed - math.floor(passed)) / self.rising)


def _convert(schedule: LinearSchedule | CyclicalSchedule, **checks: Callable[[str, object], float]) -> None:
    """Check options, which may be NumPy or tensor scalars, and replace them with plain numbers."""
    for name, check in checks.items():
        object.__setattr__(schedule, name, check(name, getattr(schedule, name)))


def _between(start: float, stop: float, part: float) -> float:
    part = min(1.0, max(0.0, part))
    return (1 - part) * start + part * stop


class ScheduledWeight:
    """The current value of a schedule, in a tensor that is changed in place, so that a compiled step can read it.

    ``name`` is the option that messages refer to. `OptionError` is raised unless values are finite and nonnegative.
    """

    def __init__(self, name: str, schedule: WeightSchedule) -> None:
        self._name = name
        self._schedule = schedule
        # One tensor per device: a step compiled for a device keeps reading its own.
        self._tensors: dict[torch.device, Tensor] = {}
        self._value = self._at(0.0)
        self.to(torch.device("cpu"))

    @property
    def tensor(self) -> Tensor:
        """The weight, a scalar tensor on the current device."""
        return self._tensors[self._device]

    def to(self, device: torch.device) -> None:
        """Move the weight to ``device``."""
        if device not in self._tensors:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._tensors[device] = torch.empty((), dtype=dtype, device=device)
        self._device = device
        self._tensors[device].fill_(self._value)

    def advance(self, epochs: float) -> bool:
        """Set the weight to its value after ``epochs`` passes, and return whether it has changed."""
        value = self._at(epochs)
        if value == self._value:
            return False
        self._value = value
        self.tensor.fill_(value)
        return True

    def _at(self, epochs: float) -> float:
        value = self._schedule(epochs)
        try:
            return nonnegative_float(self._name, value)
        except OptionError as error:
            raise OptionError(
                f"{self._name} is a schedule and must return a finite nonnegative number for any number of passes over the "
                f"data; after {epochs:g} passes it returned {value!r}."
            ) from error
