"""Timing in interleaved repetitions, so that a slow minute of the machine affects all competitors alike."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Competitor", "Times", "interleave", "measure", "printed_numbers", "timer"]

Times = dict[str, list[float]]
"""The measurements of each competitor, one per repetition."""

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository."""

WARM_UP_RUNS = 2
"""The first run compiles. `torch.jit` optimizes at the second call with a shape, and the smaller last batch of an epoch
may have its second call only in the second run."""


@dataclass(frozen=True)
class Competitor:
    """One way to do the work.

    Args:
        run: does the work, and returns when everything is computed. A further call continues from the last one.
        elbo: returns the ELBO of the last epoch, in nats per observation. It is not timed; it shows that all
            competitors do the same work.
    """

    run: Callable[[], object]
    elbo: Callable[[], float] | None = None


def measure(competitors: Mapping[str, Competitor], *, steps: int, repetitions: int) -> Times:
    """Return the milliseconds per training step of each competitor, in each repetition after the warm-up.

    Args:
        competitors: the competitors by name.
        steps: the number of training steps in one run.
        repetitions: how often each competitor is timed.
    """
    for competitor in competitors.values():
        for _ in range(WARM_UP_RUNS):
            competitor.run()
    timers = {name: timer(competitor.run, scale=1000 / steps) for name, competitor in competitors.items()}
    return interleave(timers, repetitions)


def interleave(measurements: Mapping[str, Callable[[], float]], repetitions: int) -> Times:
    """Take every measurement once per repetition.

    Each repetition starts with a different measurement, so that the effect of one measurement on the next, such as a
    cold cache, does not always hit the same one.
    """
    names = list(measurements)
    times: Times = {name: [] for name in names}
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(measurements[name]())
    return times


def timer(work: Callable[[], object], *, scale: float = 1.0) -> Callable[[], float]:
    """Return a measurement that runs ``work`` and returns its wall-clock time in seconds, multiplied by ``scale``."""

    def elapsed() -> float:
        gc.collect()  # a competitor does not pay for the garbage of the previous one
        start = time.perf_counter()
        work()
        return scale * (time.perf_counter() - start)

    return elapsed


def printed_numbers(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> list[float]:
    """Run ``python *arguments`` in a fresh process and return the numbers on the last line of its output.

    Args:
        arguments: the arguments of the interpreter, which is the one that runs this process.
        environment: environment variables to set in addition to those of this process.

    Raises:
        RuntimeError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return [float(number) for number in done.stdout.splitlines()[-1].split()]
