"""Measures competitors beside each other: interleaved repetitions, so that a slow minute of the machine hits them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Competitor", "Times", "interleave", "measure"]

Times = dict[str, list[float]]
"""For each competitor a number for each repetition, in the same order."""

WARM_UPS = 2
"""Runs before the first measured one. In the first everything is compiled; `torch.jit` optimises at the second call of a shape,
which for the last, smaller batch of an epoch may come in the second run."""


@dataclass(frozen=True)
class Competitor:
    """One way to do the work.

    Args:
        run: does it; called again it goes on from where it was, and it returns when all is computed.
        elbo: the ELBO in nats an observation that its last epoch saw. Never timed: it shows that all did the same work.
    """

    run: Callable[[], None]
    elbo: Callable[[], float] | None = None


def measure(competitors: Mapping[str, Competitor], *, steps: int, repetitions: int) -> Times:
    """Time every competitor in each repetition, after warm-up.

    Args:
        competitors: by name.
        steps: the training steps in one run.
        repetitions: how often each is timed.

    Returns:
        Milliseconds a step.
    """
    for competitor in competitors.values():
        for _ in range(WARM_UPS):
            competitor.run()
    timed = {name: _timed(competitor.run, steps) for name, competitor in competitors.items()}
    return interleave(timed, repetitions)


def interleave(measurements: Mapping[str, Callable[[], float]], repetitions: int) -> Times:
    """Take every measurement once in each repetition, and begin each repetition with another one.

    What a measurement leaves behind, such as a cold cache, is then not always left to the same one.
    """
    names = list(measurements)
    times: Times = {name: [] for name in names}
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(measurements[name]())
    return times


def _timed(run: Callable[[], None], steps: int) -> Callable[[], float]:
    def milliseconds() -> float:
        gc.collect()  # nobody pays for the garbage of the one before
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start) / steps

    return milliseconds
