"""What does a richer posterior cost a training step?

The whole compiled fit on the digits, batches of 64, with diagonal, low-rank and full covariance, at 8 and at 32 latents.
"""

from __future__ import annotations

from benchmarks import ours, problems, settings
from benchmarks.harness import measure
from benchmarks.report import Ratio, report

FAMILIES = ("diagonal", "low_rank", "full")
ASKED = {8: 1.3, 32: 1.8}
"""For each number of latents, how many times as long as the diagonal family full covariance may take."""


def main() -> None:
    """Measure, print and save."""
    given = settings.start("families", __doc__, threads=1, epochs=100)
    tasks = {latents: problems.small(latents) for latents in ASKED}
    competitors = {
        _name(family, latents): ours.fits(problem, given.epochs, family=family)
        for latents, problem in tasks.items()
        for family in FAMILIES
    }
    ratios = []
    for latents, limit in ASKED.items():
        diagonal = _name("diagonal", latents)
        ratios.append(Ratio(_name("full", latents), diagonal, at_most=limit))
        ratios.append(Ratio(_name("low_rank", latents), diagonal))
    steps = given.epochs * problems.small().steps
    times = measure(competitors, steps=steps, repetitions=given.repetitions)
    report(given, times, ratios, competitors=competitors)


def _name(family: str, latents: int) -> str:
    return f"{family}, {latents} latents"


if __name__ == "__main__":
    main()
