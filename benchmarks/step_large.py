"""How long does a training step of a larger model take, compared with Pyro, plain PyTorch and NumPyro?

A VAE 784-400-50 on 12,800 images of MNIST with a diagonal posterior and batches of 128: arithmetic dominates the
step. Without the files of MNIST (see `amortvi.datasets.mnist`), random images are used, and the report says so.
"""

from __future__ import annotations

from benchmarks.competitors import problem
from benchmarks.competitors.training_step import NUMPYRO_EPOCHS, PYRO, compare_on_cpu
from benchmarks.harness import start


def main() -> None:
    """Measure and report."""
    settings = start("step_large", __doc__, threads=2, repetitions=7, epochs=2)
    compare_on_cpu(settings, problem.large(), {PYRO: 1.9, NUMPYRO_EPOCHS: 1.0})


if __name__ == "__main__":
    main()
