"""How much time does a checkpoint after every epoch add to a fit?

A VAE 64-64-8 on the digits, batches of 64, 100 epochs, in ``runs/``. A checkpoint that would take more than a twentieth of the
time since the last one waits for a later epoch, which keeps the cost at 5 %.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import estimator
from benchmarks.competitors.problem import Problem
from benchmarks.harness import ROOT, Competitor, Ratio, measure, report, start


def fits(digits: Problem, epochs: int, folder: Path | None, **options: Any) -> Competitor:
    """Return fits of new estimators, in a new folder if there is one: a finished fit would be returned at once."""
    last, number = [], itertools.count()
    options = {"batch_size": digits.batch_size, "lr": digits.lr, "seed": 0, "progress": False} | options

    def run() -> None:
        chosen = {} if folder is None else {"checkpoint": folder / str(next(number)), "every": 1}
        last[:] = [estimator(digits).fit(digits.x, epochs=epochs, **options, **chosen)]

    return Competitor(run, lambda: float(last[0].history["elbo"].iloc[-1]))


def main() -> None:
    """Measure and report."""
    settings = start("checkpoints", __doc__, threads=1, repetitions=15, epochs=100)
    digits, epochs = problem.small(), settings.epochs
    plain, checkpointed = "fit", "fit with a checkpoint after every epoch"
    (ROOT / "runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=ROOT / "runs"))
    try:
        competitors = {plain: fits(digits, epochs, None), checkpointed: fits(digits, epochs, folder)}
        times = measure(competitors, steps=epochs * digits.steps, repetitions=settings.repetitions)
    finally:
        shutil.rmtree(folder)
    report(settings, times, [Ratio(checkpointed, plain, at_most=1.05)], competitors=competitors)


if __name__ == "__main__":
    main()
