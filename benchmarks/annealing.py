"""Does annealed importance sampling of 1,000 observations with 16 chains and 500 temperatures take at most 10 minutes?

A VAE 64-64-8 on the digits after 40 epochs, all options of `annealed_evidence` as they are by default. With fewer observations
(``--observations 50``) it is quick, and nothing is judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

import amortvi as avi
from benchmarks import ours, problems, settings
from benchmarks.harness import interleave
from benchmarks.report import Ratio, report

ALL = 1000
CHAINS, TEMPERATURES = 16, 500
ASKED_SECONDS = 600.0


def main() -> None:
    """Measure, print and save."""
    given = settings.start("annealing", __doc__, threads=2, repetitions=3, epochs=40, observations=ALL)
    problem = problems.small()
    torch.manual_seed(0)
    vi = ours.estimator(problem).fit(problem.x, epochs=given.epochs, seed=0, progress=False)
    x = problem.x[: given.observations]
    name, asked = f"{len(x)} observations", "what is asked for"
    found: list[avi.diagnostics.AnnealedEvidence] = []
    times = interleave({name: _seconds(vi, x, found.append), asked: lambda: ASKED_SECONDS}, given.repetitions)
    bound = vi.evaluate(x, particles=1000, seed=0)
    notes = [
        f"mean log p(x) {float(found[0].log_evidence.mean()):.2f}, IWAE with 1,000 draws {bound['iwae'].mean():.2f}, ELBO "
        f"{bound['elbo'].mean():.2f}; acceptance {float(found[0].acceptance.mean()):.2f}, effective chains "
        f"{float(found[0].ess.mean()):.1f} of {CHAINS}"
    ]
    ratios = [Ratio(name, asked, at_most=1)] if len(x) == ALL else []
    report(given, times, ratios, unit="seconds", notes=notes)


def _seconds(
    vi: avi.AmortizedVI, x: Tensor, keep: Callable[[avi.diagnostics.AnnealedEvidence], None]
) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        keep(avi.annealed_evidence(vi, x, chains=CHAINS, temperatures=TEMPERATURES, seed=0, progress=False))
        return time.perf_counter() - start

    return seconds


if __name__ == "__main__":
    main()
