"""How long is a training step of a larger model, beside Pyro, plain PyTorch and NumPyro?

12,800 images of MNIST, a VAE 784-400-50, diagonal posterior, batches of 128: a step in which arithmetic is most. Without MNIST
(see `amortvi.data.datasets.mnist`) it takes random images, and says so.
"""

from __future__ import annotations

from benchmarks import problems, settings, steps


def main() -> None:
    """Measure, print and save."""
    given = settings.start("step_large", __doc__, threads=2, repetitions=7, epochs=2)
    steps.ask(given, problems.large(), {steps.PYRO: 1.9, steps.NUMPYRO_EPOCHS: 1.0})


if __name__ == "__main__":
    main()
