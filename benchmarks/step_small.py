"""How long is a training step of a small model, beside Pyro, plain PyTorch and NumPyro?

Digits, a VAE 64-64-8, diagonal posterior, batches of 64: a step in which overhead is all.
"""

from __future__ import annotations

from benchmarks import problems, settings, steps


def main() -> None:
    """Measure, print and save."""
    given = settings.start("step_small", __doc__, threads=1, epochs=20)
    asked = {steps.PYRO: 9.0, steps.BY_HAND: 4.0, steps.TORCH_COMPILED: 2.5, steps.NUMPYRO_EPOCHS: 1.0}
    steps.ask(given, problems.small(), asked)


if __name__ == "__main__":
    main()
