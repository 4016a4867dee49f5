"""A convolutional encoder that returns the posterior's mean and log scale itself, without the family's linear head.

With ``head=False`` the family uses the encoder's output as its parameters, so the last layer has two channels per
latent. The decoder is dense, which on a CPU is several times as fast as transposed convolutions. Uses MNIST if its IDX
files are given (``--data FOLDER``, or the environment variable AMORTVI_DATA), and otherwise the digits of
scikit-learn. Writes reconstructions and prior draws to `runs/conv_mnist/`. Takes about two minutes on two cores.

    python examples/conv_mnist.py [--data FOLDER] [--epochs 8] [--out runs/conv_mnist]
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
    """Return a decoder from ``(B, LATENTS)`` to logits ``(B, 1, side, side)``."""
    hidden = [nn.Linear(LATENTS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(256, side * side), nn.Unflatten(1, (1, side, side)))


def main() -> None:
    """Fit and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="the folder of MNIST's IDX files")
    parser.add_argument(
        "--epochs", type=int, default=None, help="passes over the data; 8 for MNIST, 200 for the digits"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/conv_mnist"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    data = load(arguments.data)
    epochs = arguments.epochs or (8 if data.name == "MNIST" else 200)
    images = data.x_train.unflatten(1, (1, data.side, data.side))
    test = data.x_test.unflatten(1, (1, data.side, data.side))[:1000]

    torch.manual_seed(0)
    encoder = avi.encoders.Conv(data.side, out_features=2 * LATENTS, channels=(16, 32))
    family = avi.families.Diagonal(head=False)
    vi = avi.AmortizedVI(avi.models.VAE(make_decoder(data.side), LATENTS), encoder, family)
    vi.fit(images, validation_data=test, epochs=epochs, batch_size=256, lr=2e-3, seed=0)

    print(vi.history.round(2).tail(3).to_string())
    print(f"\n{data.name}, held out: {vi.evaluate(test, particles=20, seed=0).mean().round(2).to_dict()}")
    figure, axes = plt.subplots(2, 1, figsize=(4.6, 3.9), layout="compressed", height_ratios=[4, 5])
    mean = vi.model.decode(vi.posterior(test[:20]).mean["z"])
    avi.plots.plot_reconstructions(test[:20], mean, ax=axes[0])
    axes[0].set_title("test images and their reconstructions", fontsize="small")
    avi.plots.plot_images(vi.model.decode(vi.sample_prior(50, seed=0)["z"]), ax=axes[1])
    axes[1].set_title("decoded draws from the prior", fontsize="small")
    figure.savefig(out / "images.png", dpi=120)
    print(f"{out}/images.png")


if __name__ == "__main__":
    main()
