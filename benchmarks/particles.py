"""How much longer does a training step take with five draws per observation than with one?

The whole compiled fit of a VAE 64-64-8 on the digits, batches of 64, with the ELBO and the importance-weighted bound.
"""

from __future__ import annotations

from amortvi.objectives import ELBO, IWAE
from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import fits
from benchmarks.harness import Ratio, measure, report, start

DRAWS = 5


def main() -> None:
    """Measure and report."""
    settings = start("particles", __doc__, threads=1, epochs=100)
    digits = problem.small()
    closed_form, one = "one draw, KL in closed form (the default)", "one draw, sampled KL"
    many, weighted = f"{DRAWS} draws, sampled KL", f"{DRAWS} draws, importance-weighted"
    objectives = {
        closed_form: ELBO(),
        one: ELBO(kl="sampled"),
        many: ELBO(DRAWS, kl="sampled"),
        weighted: IWAE(DRAWS),
    }
    competitors = {name: fits(digits, settings.epochs, objective=each) for name, each in objectives.items()}
    times = measure(competitors, steps=settings.epochs * digits.steps, repetitions=settings.repetitions)
    ratios = [ratio for name in (weighted, many) for ratio in (Ratio(name, one, at_most=2.2), Ratio(name, closed_form))]
    report(settings, times, ratios, competitors=competitors)


if __name__ == "__main__":
    main()
