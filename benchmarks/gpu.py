"""How long is a training step on a GPU, beside Pyro on the same one?

A VAE 784-400-50, batches of 128, diagonal posterior, data on the GPU for all. Skipped where there is no GPU.
"""

from __future__ import annotations

import dataclasses

import torch
from pyro.infer import Trace_ELBO

from benchmarks import by_hand, ours, problems, pyro_svi, settings, steps
from benchmarks.harness import measure
from benchmarks.report import Ratio, report, report_skipped


def main() -> None:
    """Measure, print and save."""
    given = settings.start("gpu", __doc__, threads=1, repetitions=9, epochs=5)
    if not torch.cuda.is_available():
        report_skipped(given, "torch finds no CUDA GPU on this machine (torch.cuda.is_available() is False)")
        return
    problem = problems.large()
    problem = dataclasses.replace(problem, x=problem.x.cuda())
    competitors = {
        steps.PYRO: pyro_svi.svi(problem, given.epochs, Trace_ELBO(), device="cuda"),
        steps.BY_HAND: by_hand.eager(problem, given.epochs, device="cuda"),
        steps.TORCH_COMPILED: by_hand.torch_compiled(problem, given.epochs, device="cuda"),
        "amortvi fit, eager": ours.fits(problem, given.epochs, compile=False, device="cuda"),
        steps.COMPILED: ours.fits(problem, given.epochs, compile=True, device="cuda"),
    }
    # Nobody returns before the GPU is done: each reads the loss of its last epoch.
    times = measure(competitors, steps=given.epochs * problem.steps, repetitions=given.repetitions)
    ratios = [
        Ratio(name, steps.COMPILED, at_least=20.0 if name == steps.PYRO else None)
        for name in competitors
        if name != steps.COMPILED
    ]
    report(given, times, ratios, competitors=competitors, notes=problem.notes)


if __name__ == "__main__":
    main()
