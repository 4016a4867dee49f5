"""How much faster are k-hat and the smoothed weights of 10,000 observations with 1,000 draws than with ArviZ's psislw?

The same log weights for both, normal ones with a spread from 0.2 to 4 nats, so that the tails go from light to very heavy. Both
smooth every weight, and what they find is compared: it must agree to 1e-6.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import arviz
import numpy as np
import torch
from torch import Tensor

from amortvi.importance import pareto_smoothed
from benchmarks import settings
from benchmarks.harness import interleave
from benchmarks.report import Ratio, report, report_skipped

OBSERVATIONS, DRAWS = 10_000, 1_000
TOLERANCE = 1e-6


def main() -> None:
    """Measure, compare, print and save."""
    given = settings.start("k_hat", __doc__, threads=1, repetitions=5)
    if not hasattr(arviz, "psislw"):
        report_skipped(given, f"ArviZ {arviz.__version__} has no psislw; ArviZ 0.x has")
        return
    spread = torch.linspace(0.2, 4.0, OBSERVATIONS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    log_weights = spread * torch.randn(DRAWS, OBSERVATIONS, generator=generator, dtype=torch.float64)
    # Each is given the weights as it wants them; copying them into another order is not timed.
    rows = log_weights.t().contiguous().numpy()
    note = _compare(log_weights, rows)
    ours, theirs = "amortvi, pareto_smoothed", "ArviZ, psislw"
    times = interleave(
        {ours: _seconds(lambda: pareto_smoothed(log_weights)), theirs: _seconds(lambda: arviz.psislw(rows))},
        given.repetitions,
    )
    report(given, times, [Ratio(theirs, ours, at_least=5)], unit="seconds", notes=[note])


def _compare(log_weights: Tensor, rows: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Run both once and say how far they are apart; too far is an error."""
    smoothed = pareto_smoothed(log_weights)
    weights, k_hat = arviz.psislw(rows)
    apart = float(np.abs(smoothed.k_hat.numpy() - k_hat).max())
    weights_apart = float(np.abs(smoothed.normalised.t().numpy() - weights).max())
    if not max(apart, weights_apart) < TOLERANCE:
        raise RuntimeError(f"amortvi and ArviZ differ by {apart} in k-hat and by {weights_apart} in log weights")
    bad = float((smoothed.k_hat > 0.7).double().mean())
    return (
        f"they agree to {apart:.0e} in k-hat and {weights_apart:.0e} in log weights; {bad:.0%} of k-hats are above 0.7"
    )


def _seconds(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


if __name__ == "__main__":
    main()
