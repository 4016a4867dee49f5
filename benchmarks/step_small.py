"""How long does a training step of a small model take, compared with Pyro, plain PyTorch and NumPyro?

A VAE 64-64-8 on the digits with a diagonal posterior and batches of 64: overhead dominates the step.
"""

from __future__ import annotations

from benchmarks.competitors import problem
from benchmarks.competitors.training_step import NUMPYRO_EPOCHS, PYRO, PYTORCH, TORCH_COMPILE, compare_on_cpu
from benchmarks.harness import start


def main() -> None:
    """Measure and report."""
    settings = start("step_small", __doc__, threads=1, epochs=20)
    targets = {PYRO: 9.0, PYTORCH: 4.0, TORCH_COMPILE: 2.5, NUMPYRO_EPOCHS: 1.0}
    compare_on_cpu(settings, problem.small(), targets)


if __name__ == "__main__":
    main()
