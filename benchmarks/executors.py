"""How much sooner do eight fits end in two processes than one after the other?

A VAE 64-64-8 on the digits, batches of 64: two families with four seeds each, every fit with one thread. The time includes the
start of the processes, each of which imports amortvi, and the journey of data and results.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch

import amortvi as avi
from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import estimator
from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor, Ratio, interleave, report, start, timer

WORKERS = 2
FAMILIES, SEEDS = ["diagonal", "full"], range(4)
TARGET = 1.7
"""How many times as fast the fits should be."""


def fits(digits: Problem, epochs: int, workers: int) -> Competitor:
    """Return all fits, in this process if there are no workers."""
    elbos: list[float] = []

    def run() -> None:
        torch.manual_seed(0)
        vi = estimator(digits)
        options = {"epochs": epochs, "batch_size": digits.batch_size, "lr": digits.lr, "progress": False}

        def fit(executor: ProcessPoolExecutor | None) -> None:
            found = avi.fit_families(
                vi.model, vi.encoder, FAMILIES, digits.x, seeds=SEEDS, executor=executor, **options
            )
            elbos[:] = [float(each.vi.history["elbo"].iloc[-1]) for each in found.fits]

        if workers:
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
                fit(executor)
        else:
            fit(None)

    return Competitor(run, lambda: sum(elbos) / len(elbos))


def main() -> None:
    """Measure and report."""
    settings = start("executors", __doc__, threads=1, repetitions=3, epochs=800, pin=False)
    digits = problem.small()
    in_turn, by_workers = "one after the other", f"{WORKERS} processes"
    competitors = {in_turn: fits(digits, settings.epochs, 0), by_workers: fits(digits, settings.epochs, WORKERS)}
    timers: dict[str, Callable[[], float]] = {name: timer(each.run) for name, each in competitors.items()}
    times = interleave(timers, settings.repetitions)
    report(settings, times, [Ratio(in_turn, by_workers, at_least=TARGET)], unit="seconds", competitors=competitors)


if __name__ == "__main__":
    main()
