"""How much faster is it to refine the posteriors of 1,000 observations together than one after the other?

A VAE 64-64-8 on the digits, with diagonal and full covariance, after 40 epochs. Refinement one after the other is
measured on 20 observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import amortvi as avi
from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import estimator
from benchmarks.harness import Ratio, interleave, report, start, timer

TOGETHER, ALONE = 1000, 20


def main() -> None:
    """Measure and report."""
    settings = start("refinement", __doc__, threads=2, repetitions=5, epochs=40)
    digits = problem.small()
    x = digits.x[:TOGETHER]
    measurements, ratios = {}, []
    for family in ("diagonal", "full"):
        torch.manual_seed(0)
        vi = estimator(digits, family).fit(digits.x, epochs=settings.epochs, seed=0, progress=False)
        together, alone = f"{family}, all at once", f"{family}, one after the other"
        measurements[together] = timer(partial(_refine, vi, [x]), scale=1000 / TOGETHER)
        measurements[alone] = timer(partial(_refine, vi, x[:ALONE].split(1)), scale=1000 / ALONE)
        ratios.append(Ratio(alone, together, at_least=50))
    interleave(measurements, 1)  # warm-up
    report(settings, interleave(measurements, settings.repetitions), ratios, unit="ms per observation")


def _refine(vi: avi.AmortizedVI, parts: Sequence[Tensor]) -> None:
    for part in parts:
        vi.refine(part)


if __name__ == "__main__":
    main()
