"""How much faster are k-hat and the smoothed weights of 10,000 observations with 1,000 draws than ArviZ's psislw?

Both smooth the same log weights. These are normal with standard deviations from 0.2 to 4 nats, so their tails range
from light to very heavy. The results must agree to 1e-6.
"""

from __future__ import annotations

from typing import Any

import arviz
import numpy as np
import torch
from torch import Tensor

from amortvi.importance import pareto_smoothed
from benchmarks.harness import Ratio, interleave, report, report_skipped, start, timer

OBSERVATIONS, DRAWS = 10_000, 1_000
TOLERANCE = 1e-6


def main() -> None:
    """Measure, compare and report."""
    settings = start("k_hat", __doc__, threads=1, repetitions=5)
    if not hasattr(arviz, "psislw"):
        report_skipped(settings, f"ArviZ {arviz.__version__} has no psislw; ArviZ 0.x has")
        return
    spread = torch.linspace(0.2, 4.0, OBSERVATIONS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    log_weights = spread * torch.randn(DRAWS, OBSERVATIONS, generator=generator, dtype=torch.float64)
    # Each gets the weights in its own memory layout; the conversion is not timed.
    rows = log_weights.t().contiguous().numpy()
    note = _compare(log_weights, rows)
    ours, theirs = "amortvi, pareto_smoothed", "ArviZ, psislw"
    measurements = {ours: timer(lambda: pareto_smoothed(log_weights)), theirs: timer(lambda: arviz.psislw(rows))}
    times = interleave(measurements, settings.repetitions)
    report(settings, times, [Ratio(theirs, ours, at_least=5)], unit="seconds", notes=[note])


def _compare(log_weights: Tensor, rows: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """Run both once and describe the largest differences.

    Raises:
        RuntimeError: the results differ by more than the tolerance.
    """
    smoothed = pareto_smoothed(log_weights)
    weights, k_hat = arviz.psislw(rows)
    k_hat_error = float(np.abs(smoothed.k_hat.numpy() - k_hat).max())
    weight_error = float(np.abs(smoothed.log_weights.log_softmax(0).t().numpy() - weights).max())
    if not max(k_hat_error, weight_error) < TOLERANCE:
        raise RuntimeError(f"amortvi and ArviZ differ by {k_hat_error} in k-hat and by {weight_error} in log weights")
    heavy = float((smoothed.k_hat > 0.7).double().mean())
    return (
        f"errors: {k_hat_error:.0e} in k-hat, {weight_error:.0e} in log weights; {heavy:.0%} of the k-hats exceed 0.7"
    )


if __name__ == "__main__":
    main()
