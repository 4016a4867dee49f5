"""How much time does a fit add to its compiled steps?

A VAE 64-64-8 on the digits, batches of 64, 100 epochs. The fit adds checks of the data, shuffling, history and a
progress bar.
"""

from __future__ import annotations

from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import compiled_steps, fits
from benchmarks.harness import Ratio, measure, report, start


def main() -> None:
    """Measure and report."""
    settings = start("fit_overhead", __doc__, threads=1, repetitions=15, epochs=100)
    digits, epochs = problem.small(), settings.epochs
    bare, quiet, shown = "the compiled step alone", "fit", "fit with its progress bar"
    competitors = {
        bare: compiled_steps(digits, epochs),
        quiet: fits(digits, epochs),
        shown: fits(digits, epochs, progress=True),
    }
    times = measure(competitors, steps=epochs * digits.steps, repetitions=settings.repetitions)
    report(settings, times, [Ratio(shown, bare, at_most=1.1), Ratio(quiet, bare)], competitors=competitors)


if __name__ == "__main__":
    main()
