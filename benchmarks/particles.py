"""What do five draws for each observation cost, beside one?

The whole compiled fit on the digits, a VAE 64-64-8, batches of 64. The importance-weighted bound where there is one.
"""

from __future__ import annotations

import amortvi as avi
from benchmarks import ours, problems, settings
from benchmarks.harness import measure
from benchmarks.report import Ratio, report

DRAWS = 5


def main() -> None:
    """Measure, print and save."""
    given = settings.start("particles", __doc__, threads=1, epochs=100)
    one, exact, many = "one draw, sampled KL", "one draw, exact KL (the default)", f"{DRAWS} draws, sampled KL"
    objectives = {
        exact: avi.objectives.ELBO(),
        one: avi.objectives.ELBO(kl="sampled"),
        many: avi.objectives.ELBO(DRAWS, kl="sampled"),
    }
    ratios = [Ratio(many, one, at_most=2.2), Ratio(many, exact)]
    if hasattr(avi.objectives, "IWAE"):
        weighted = f"{DRAWS} draws, importance-weighted"
        objectives[weighted] = avi.objectives.IWAE(DRAWS)
        ratios = [Ratio(weighted, one, at_most=2.2), Ratio(weighted, exact), *ratios]
    problem = problems.small()
    competitors = {
        name: ours.fits(problem, given.epochs, objective=objective) for name, objective in objectives.items()
    }
    times = measure(competitors, steps=given.epochs * problem.steps, repetitions=given.repetitions)
    report(given, times, ratios, competitors=competitors)


if __name__ == "__main__":
    main()
