"""What does a fit add to its compiled steps?

Digits, a VAE 64-64-8, batches of 64, 100 epochs: checks of the data, shuffling, history and progress bar, per step.
"""

from __future__ import annotations

from benchmarks import ours, problems, settings
from benchmarks.harness import measure
from benchmarks.report import Ratio, report


def main() -> None:
    """Measure, print and save."""
    given = settings.start("fit_overhead", __doc__, threads=1, repetitions=15, epochs=100)
    problem = problems.small()
    bare, quiet, shown = "the compiled step alone", "fit", "fit with its progress bar"
    competitors = {
        bare: ours.bare_compiled_steps(problem, given.epochs),
        quiet: ours.fits(problem, given.epochs),
        shown: ours.fits(problem, given.epochs, progress=True),
    }
    times = measure(competitors, steps=given.epochs * problem.steps, repetitions=given.repetitions)
    report(given, times, [Ratio(shown, bare, at_most=1.1), Ratio(quiet, bare)], competitors=competitors)


if __name__ == "__main__":
    main()
