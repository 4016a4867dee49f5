"""How much longer does a training step take with a richer posterior family?

The whole compiled fit on the digits, batches of 64, with diagonal, low-rank and full covariance, for 8 and 32 latents.
`benchmarks.richer_families` has the families beyond one Gaussian.
"""

from __future__ import annotations

from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import fits
from benchmarks.harness import Competitor, Ratio, measure, report, start

FAMILIES = ("diagonal", "low_rank", "full")
TARGETS = {8: 1.3, 32: 1.8}
"""For each number of latents, the largest ratio of full to diagonal covariance."""


def main() -> None:
    """Measure and report."""
    settings = start("families", __doc__, threads=1, epochs=100)
    competitors: dict[str, Competitor] = {}
    ratios = []
    for latents, target in TARGETS.items():
        digits = problem.small(latents)
        name = {family: f"{family}, {latents} latents" for family in FAMILIES}
        competitors |= {name[family]: fits(digits, settings.epochs, family=family) for family in FAMILIES}
        ratios.append(Ratio(name["full"], name["diagonal"], at_most=target))
        ratios.append(Ratio(name["low_rank"], name["diagonal"]))
    steps = settings.epochs * problem.small().steps
    times = measure(competitors, steps=steps, repetitions=settings.repetitions)
    report(settings, times, ratios, competitors=competitors)


if __name__ == "__main__":
    main()
