"""Does annealed importance sampling of 1,000 observations with 16 chains and 500 temperatures take at most 10 minutes?

A VAE 64-64-8 on the digits after 40 epochs, with the default options of `annealed_evidence`. With fewer observations
(``--observations 50``) the script is quick, and nothing is judged.
"""

from __future__ import annotations

import torch

import amortvi as avi
from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import estimator
from benchmarks.harness import Ratio, interleave, report, start, timer

ALL = 1000
CHAINS, TEMPERATURES = 16, 500
LIMIT = 600.0


def main() -> None:
    """Measure and report."""
    settings = start("annealing", __doc__, threads=2, repetitions=3, epochs=40, observations=ALL)
    digits = problem.small()
    torch.manual_seed(0)
    vi = estimator(digits).fit(digits.x, epochs=settings.epochs, seed=0, progress=False)
    x = digits.x[: settings.observations]
    results: list[avi.diagnostics.AnnealedEvidence] = []

    def anneal() -> None:
        results.append(avi.annealed_evidence(vi, x, chains=CHAINS, temperatures=TEMPERATURES, seed=0, progress=False))

    name, limit = f"{len(x)} observations", f"the limit of {LIMIT:g} seconds"
    times = interleave({name: timer(anneal), limit: lambda: LIMIT}, settings.repetitions)
    result, bounds = results[0], vi.evaluate(x, particles=1000, seed=0)
    note = (
        f"mean log p(x) {float(result.log_evidence.mean()):.2f}, IWAE with 1,000 draws {bounds['iwae'].mean():.2f}, "
        f"ELBO {bounds['elbo'].mean():.2f}; acceptance {float(result.acceptance.mean()):.2f}, effective chains "
        f"{float(result.ess.mean()):.1f} of {CHAINS}"
    )
    ratios = [Ratio(name, limit, at_most=1)] if len(x) == ALL else []
    report(settings, times, ratios, unit="seconds", notes=[note])


if __name__ == "__main__":
    main()
