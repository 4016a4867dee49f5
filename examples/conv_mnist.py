"""A convolutional encoder that returns the posterior's mean and log scale itself, without the family's linear head.

With ``head=False`` the family uses the encoder's output as its parameters, so the last layer has two channels per
latent. Uses MNIST if its IDX files are given (``--data FOLDER``, or the environment variable AMORTVI_DATA), and
otherwise the digits of scikit-learn. Writes reconstructions and prior draws to `runs/conv_mnist/`. Takes up to a
minute and a half on two cores.

    python examples/conv_mnist.py [--data FOLDER] [--epochs 3] [--out runs/conv_mnist]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import amortvi as avi

LATENTS = 16


def load(folder: str | None) -> avi.datasets.ImageSplits:
    """Return MNIST if its files are found, otherwise the digits."""
    try:
        return avi.datasets.mnist(folder)
    except avi.errors.DataError as error:
        if folder is not None:
            raise
        print(f"{error}\nUsing the digits of scikit-learn instead.")
        return avi.datasets.digits()


def make_decoder(side: int) -> nn.Module:
    """Return a decoder of transposed convolutions from ``(B, LATENTS)`` to logits ``(B, 1, side, side)``."""
    small = side // 4
    return nn.Sequential(
        nn.Unflatten(1, (LATENTS, 1, 1)),
        nn.ConvTranspose2d(LATENTS, 32, kernel_size=small),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, kernel_size=4, stride=2, padding=1),
    )


def main() -> None:
    """Fit and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="the folder of MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=None, help="passes over the data; 2 for MNIST, 60 for the digits")
    parser.add_argument("--out", type=Path, default=Path("runs/conv_mnist"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    data = load(arguments.data)
    epochs = arguments.epochs or (2 if data.name == "MNIST" else 60)
    images = data.x_train.unflatten(1, (1, data.side, data.side))
    test = data.x_test.unflatten(1, (1, data.side, data.side))[:1000]

    torch.manual_seed(0)
    encoder = avi.encoders.Conv(data.side, out_features=2 * LATENTS, channels=(16, 32))
    family = avi.families.Diagonal(head=False)
    vi = avi.AmortizedVI(avi.models.VAE(make_decoder(data.side), LATENTS), encoder, family)
    vi.fit(images, validation_data=test, epochs=epochs, lr=2e-3, seed=0)

    print(vi.history.round(2).tail(3).to_string())
    print(f"\n{data.name}, held out: {vi.evaluate(test, particles=20, seed=0).mean().round(2).to_dict()}")
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.4), layout="constrained")
    mean = vi.model.decode(vi.posterior(test[:20]).mean["z"])
    avi.plots.plot_reconstructions(test[:20, 0], mean[:, 0], ax=axes[0])
    axes[0].set_title("test images and their reconstructions")
    avi.plots.plot_images(vi.model.decode(vi.sample_prior(50, seed=0)["z"])[:, 0], ax=axes[1])
    axes[1].set_title("decoded prior draws")
    figure.savefig(out / "images.png", dpi=110)
    print(f"{out}/images.png")


if __name__ == "__main__":
    main()
