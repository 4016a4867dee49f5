"""How does the time of a training step grow with the length of a series, for the banded family?

Compiled fits of 256 series of 100 to 800 noisy measurements of an autoregression, whose states are the latents: the model of
`examples/state_space.py`, with a linear encoder that reads each measurement and its neighbors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import amortvi as avi
from benchmarks.harness import Competitor, Ratio, measure, report, start
from examples.state_space import NOISE, Autoregression, model

LENGTHS = (100, 200, 400, 800)
SERIES, BATCH = 256, 64
LARGEST = 10.0
"""The largest ratio of the time of a step with 800 measurements to that with 100."""


class Neighborhood(nn.Module):
    """Location, log scale and coupling of each step from the measurements around it: the parameters of the chain."""

    def __init__(self, width: int = 21) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 3, width, padding=width // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T)`` to ``(B, 3 T - 1)``: all locations, all log scales, and the couplings from the second step on."""
        filtered: Tensor = self.filter(x.unsqueeze(1))
        return filtered.flatten(1)[:, :-1]


def fits(length: int, epochs: int) -> Competitor:
    """Return a compiled fit of series of one length."""
    torch.manual_seed(0)
    x = torch.normal(Autoregression(length).sample((SERIES,)), NOISE)
    vi = avi.AmortizedVI(model, Neighborhood(), avi.families.Banded(head=False), freeze_model=True)

    def run() -> None:
        vi.fit(x, epochs=epochs, batch_size=BATCH, compile=True, seed=0, progress=False)

    return Competitor(run, lambda: float(vi.history["elbo"].iloc[-1]))


def main() -> None:
    """Measure and report."""
    settings = start("chain", __doc__, threads=1, epochs=50)
    competitors = {f"{length} steps": fits(length, settings.epochs) for length in LENGTHS}
    ratios = [Ratio(f"{length} steps", "100 steps") for length in LENGTHS[1:-1]]
    ratios.append(Ratio("800 steps", "100 steps", at_most=LARGEST))
    times = measure(competitors, steps=settings.epochs * SERIES // BATCH, repetitions=settings.repetitions)
    report(settings, times, ratios, competitors=competitors)


if __name__ == "__main__":
    main()
