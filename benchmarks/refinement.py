"""How much faster is it to refine the posteriors of 1,000 observations at once than one after the other?

A VAE 64-64-8 on the digits, diagonal and full covariance, after 40 epochs; one after the other is measured on 20 of them.
"""

from __future__ import annotations

import time

import torch

import amortvi as avi
from benchmarks import ours, problems, settings
from benchmarks.harness import interleave
from benchmarks.report import Ratio, report

TOGETHER, ALONE = 1000, 20


def main() -> None:
    """Measure, print and save."""
    given = settings.start("refinement", __doc__, threads=2, repetitions=5, epochs=40)
    problem = problems.small()
    x = problem.x[:TOGETHER]
    measurements, ratios = {}, []
    for family in ("diagonal", "full"):
        torch.manual_seed(0)
        vi = ours.estimator(problem, family).fit(problem.x, epochs=given.epochs, seed=0, progress=False)
        together, alone = f"{family}, all at once", f"{family}, one after the other"
        measurements[together] = lambda vi=vi: _milliseconds(vi, [x], TOGETHER)
        measurements[alone] = lambda vi=vi: _milliseconds(vi, list(x[:ALONE].split(1)), ALONE)
        ratios.append(Ratio(alone, together, at_least=50))
    interleave(measurements, 1)  # warm-up
    report(given, interleave(measurements, given.repetitions), ratios, unit="ms an observation")


def _milliseconds(vi: avi.AmortizedVI, parts: list[torch.Tensor], observations: int) -> float:
    start = time.perf_counter()
    for part in parts:
        vi.refine(part)
    return 1000 * (time.perf_counter() - start) / observations


if __name__ == "__main__":
    main()
