r"""Weights that change while training.

A posterior that is pulled to the prior before the decoder has learned to use its latents never comes back. Bowman et al. (2016)
therefore let the weight of the KL rise from zero, in a line; Fu et al. (2019) let it rise several times, so that
each cycle starts from latents that the cycles before have filled with meaning.

A schedule is any function of the passes over the data so far, a fraction during an epoch, that returns the weight. They
are counted as the epochs in `AmortizedVI.history` are: a further ``fit`` goes on where the last one ended. To begin one
later, shift it: ``lambda epochs: schedule(epochs - 50)``. A further ``fit`` that is given the same objective, not one made
anew, uses what was compiled for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from torch import Tensor

from amortvi._checks import not_negative_float, positive_float, positive_int
from amortvi.errors import OptionError

__all__ = ["CyclicalSchedule", "LinearSchedule", "ScheduledWeight", "WeightSchedule"]

WeightSchedule: TypeAlias = Callable[[float], float]
"""The passes over the data so far, to a weight."""


@dataclass(frozen=True)
class LinearSchedule:
    """From ``start`` to ``stop`` in a line, and then ``stop`` (Bowman et al., 2016).

    Args:
        epochs: passes over the data until ``stop`` is reached.
        start: the weight at the beginning.
        stop: the weight at the end.

    Raises:
        OptionError: ``epochs`` is not above zero, or a weight is below zero.

    Example:
        >>> schedule = LinearSchedule(epochs=20, start=0.1)
        >>> schedule(0), schedule(10), schedule(30)
        (0.1, 0.55, 1.0)
    """

    epochs: float
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        _set(self, epochs=positive_float("epochs", self.epochs), **_checked_ends(self.start, self.stop))

    def __call__(self, epochs: float) -> float:
        """Return the weight after ``epochs`` passes."""
        return _between(self.start, self.stop, epochs / self.epochs)


@dataclass(frozen=True)
class CyclicalSchedule:
    """Several times from ``start`` to ``stop`` in a line, staying there for the rest of the cycle (Fu et al., 2019).

    Args:
        epochs: passes over the data that all cycles take together; the weight is ``stop`` from then on.
        cycles: how many there are.
        rising: the part of a cycle in which the weight rises.
        start: the weight at the beginning of a cycle.
        stop: the weight at its end.

    Raises:
        OptionError: ``epochs`` is not above zero, ``cycles`` no positive integer, ``rising`` not above zero and at most
            one, or a weight is below zero.

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
        rising = positive_float("rising", self.rising)
        if rising > 1:
            raise OptionError(f"rising is a part of each cycle, at most 1; got {rising}.")
        _set(
            self,
            epochs=positive_float("epochs", self.epochs),
            cycles=positive_int("cycles", self.cycles),
            rising=rising,
            **_checked_ends(self.start, self.stop),
        )

    def __call__(self, epochs: float) -> float:
        """Return the weight after ``epochs`` passes."""
        if epochs >= self.epochs:
            return self.stop
        passed = max(0.0, epochs) * self.cycles / self.epochs
        return _between(self.start, self.stop, (passed - math.floor(passed)) / self.rising)


def _checked_ends(start: float, stop: float) -> dict[str, float]:
    return {"start": not_negative_float("start", start), "stop": not_negative_float("stop", stop)}


def _set(schedule: LinearSchedule | CyclicalSchedule, **checked: float) -> None:
    """Put plain numbers in the place of what was given, which may be those of NumPy or of a tensor."""
    for name in (field.name for field in fields(schedule)):
        object.__setattr__(schedule, name, checked[name])


def _between(start: float, stop: float, part: float) -> float:
    part = min(1.0, max(0.0, part))
    return (1 - part) * start + part * stop


class ScheduledWeight:
    """A number that a schedule changes, in a tensor that stays the same one: a compiled step reads it anew each time.

    Args:
        name: of the option that it is, for messages.
        schedule: gives its values.

    Raises:
        OptionError: the schedule is no function of a number that returns one of at least zero.
    """

    def __init__(self, name: str, schedule: WeightSchedule) -> None:
        self._name = name
        self._schedule = schedule
        # One for each device: what was compiled for one keeps reading its own.
        self._tensors: dict[torch.device, Tensor] = {}
        self._value = self._at(0.0)
        self.to(torch.device("cpu"))

    @property
    def tensor(self) -> Tensor:
        """The weight, a tensor without dimensions on the device of the fit."""
        return self._tensors[self._device]

    def to(self, device: torch.device) -> None:
        """Keep the weight on ``device`` from now on."""
        if device not in self._tensors:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._tensors[device] = torch.empty((), dtype=dtype, device=device)
        self._device = device
        self._tensors[device].fill_(self._value)

    def advance(self, epochs: float) -> None:
        """Set the weight to that after ``epochs`` passes."""
        value = self._at(epochs)
        if value != self._value:
            self._value = value
            self.tensor.fill_(value)

    def _at(self, epochs: float) -> float:
        value = self._schedule(epochs)
        try:
            return not_negative_float(self._name, value)
        except OptionError as error:
            raise OptionError(
                f"{self._name}, where it is a schedule, must return a finite number of at least 0 for any number of passes "
                f"over the data; after {epochs:g} it returned {value!r}."
            ) from error
