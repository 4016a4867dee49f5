"""How much sooner does an epoch end in two processes, each with one thread, than in one?

A VAE 784-400-50 on 12,800 images of MNIST, minibatches of 2,560. Each fit runs in fresh processes, started by torchrun if there
are two; the time is the median of its epochs but the first, without the start of the processes.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import estimator
from benchmarks.harness import Ratio, interleave, printed_numbers, report, start

BATCH_SIZE = 2_560
TARGET = 1.6
"""How many times as fast two processes should be."""
WORKER = "BENCHMARK_DISTRIBUTED_EPOCHS"
"""The environment variable that makes a process a worker; its value is the number of epochs."""


def fit(processes: int, compile: bool | str, epochs: int) -> Callable[[], float]:
    """Return a measurement: the seconds per epoch of a fit."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [*launcher, "-m", "benchmarks.distributed", str(compile)]

    def measured() -> float:
        # Of several lines, the first process alone writes one.
        return printed_numbers(command, {WORKER: str(epochs), "OMP_NUM_THREADS": "1"})[0]

    return measured


def work(epochs: int, compile: str) -> None:
    """Fit in this process, or together with others, and print the seconds per epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = replace(problem.large(), batch_size=BATCH_SIZE)
    options = {"compile": "auto" if compile == "auto" else False, "distributed": "RANK" in os.environ}
    vi = estimator(images).fit(
        images.x, epochs=epochs, batch_size=BATCH_SIZE, lr=images.lr, seed=0, progress=False, **options
    )
    if os.environ.get("RANK", "0") == "0":
        print(statistics.median(vi.history["seconds"].iloc[1:]))


def main() -> None:
    """Measure and report."""
    settings = start("distributed", __doc__, threads=1, repetitions=3, epochs=12, pin=False)
    eager, recorded, two = "one process, eager", "one process, recorded", "two processes"
    timers = {
        eager: fit(1, False, settings.epochs),
        recorded: fit(1, "auto", settings.epochs),
        two: fit(2, False, settings.epochs),
    }
    times = interleave(timers, settings.repetitions)
    ratios = [Ratio(eager, two, at_least=TARGET), Ratio(recorded, two, at_least=TARGET)]
    report(settings, times, ratios, unit="seconds per epoch")


if __name__ == "__main__":
    if WORKER in os.environ:
        work(int(os.environ[WORKER]), sys.argv[1])
    else:
        main()
