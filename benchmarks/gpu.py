"""How long does a training step on a GPU take, compared with Pyro on the same GPU?

A VAE 784-400-50 with a diagonal posterior and batches of 128. The data of all competitors are on the GPU. Without a
CUDA GPU the question is skipped.
"""

from __future__ import annotations

import dataclasses

import torch
from pyro.infer import Trace_ELBO

from benchmarks.competitors import amortvi_fit, problem, pyro_svi, pytorch
from benchmarks.competitors.training_step import COMPILED, EAGER, PYRO, PYTORCH, TORCH_COMPILE, ratios_to_compiled_fit
from benchmarks.harness import measure, report, report_skipped, start

DEVICE = "cuda"


def main() -> None:
    """Measure and report."""
    settings = start("gpu", __doc__, threads=1, repetitions=9, epochs=5)
    if not torch.cuda.is_available():
        report_skipped(settings, "torch finds no CUDA GPU on this machine (torch.cuda.is_available() is False)")
        return
    epochs, large = settings.epochs, problem.large()
    large = dataclasses.replace(large, x=large.x.to(DEVICE))
    competitors = {
        PYRO: pyro_svi.svi(large, epochs, Trace_ELBO(), device=DEVICE),
        PYTORCH: pytorch.training_loop(large, epochs, device=DEVICE),
        TORCH_COMPILE: pytorch.training_loop(large, epochs, compile=True, device=DEVICE),
        EAGER: amortvi_fit.fits(large, epochs, compile=False, device=DEVICE),
        COMPILED: amortvi_fit.fits(large, epochs, device=DEVICE),
    }
    # Each run ends by reading the loss of its last epoch, and so waits for the GPU.
    times = measure(competitors, steps=epochs * large.steps, repetitions=settings.repetitions)
    ratios = ratios_to_compiled_fit(competitors, {PYRO: 20.0})
    report(settings, times, ratios, competitors=competitors, notes=large.notes)


if __name__ == "__main__":
    main()
