"""Digits of which half of the pixels are missing: a VAE that is trained on the rest, and what it makes of the missing ones.

`avi.mask_missing` fills missing values and returns a mask. The model scores the observed pixels only, with
`.mask(observed)`, and the encoder reads the pixels together with the mask. Between 10% and 90% of the pixels of a
training image are missing, at random and half of them on average, so that the encoder learns what each number of pixels
is worth. Prints the error of the missing pixels of held-out images, predicted by the posterior and by the mean of the
observed training pixels, and how the posterior widens as more pixels are missing. Writes images to
`runs/masked_digits/`. Takes a quarter of a minute on two cores.

    python examples/masked_digits.py [--epochs 200] [--seed 0] [--out runs/masked_digits]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi

PIXELS, LATENTS, HIDDEN = 64, 8, 128


class MaskedVAE(nn.Module):
    """A VAE of partly observed images with normal noise."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())
        self.log_scale = nn.Parameter(torch.tensor(-1.5))

    def forward(self, x: Tensor, observed: Tensor) -> None:
        """Run the model on ``x``, ``(B, 64)``, and the mask of the pixels that were observed, of the same shape."""
        with pyro.plate("images", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            pixels = dist.Normal(self.decoder(z), self.log_scale.exp()).mask(observed)
            pyro.sample("x", pixels.to_event(1), obs=x)


def with_missing(images: Tensor, fraction: float | Tensor, generator: torch.Generator) -> Tensor:
    """Return the images with a fraction of the pixels, one number or one per image, ``(N, 1)``, replaced by NaN."""
    return images.masked_fill(torch.rand(images.shape, generator=generator) < fraction, torch.nan)


def reconstruct(vi: avi.AmortizedVI, posterior: avi.Posterior) -> Tensor:
    """Return the expected pixels under the posterior, ``(N, 64)``."""
    draws = posterior.sample(100, seed=0)["z"]
    with torch.no_grad():
        return vi.model.decoder(draws).mean(0)


def main() -> None:
    """Fit, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="the most passes over the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/masked_digits"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    images = avi.datasets.digits()
    generator = torch.Generator().manual_seed(arguments.seed)
    fractions = 0.1 + 0.8 * torch.rand(len(images.x_train), 1, generator=generator)
    train = with_missing(images.x_train, fractions, generator)
    torch.manual_seed(arguments.seed)
    vi = avi.AmortizedVI(MaskedVAE(), avi.encoders.MLP(2 * PIXELS), "diagonal")
    # The noise of the pixels is learned: without early stopping, it would become that of images that the network knows.
    vi.fit(avi.mask_missing(train), validation_data=0.1, patience=10, epochs=arguments.epochs, seed=arguments.seed)

    rows, mean_image = {}, train.nanmean(0)
    for fraction in (0.1, 0.3, 0.5, 0.7, 0.9):
        x, observed = avi.mask_missing(with_missing(images.x_test, fraction, generator))
        posterior = vi.posterior((x, observed))
        found = reconstruct(vi, posterior)
        rows[fraction] = {
            "posterior, RMSE": float((found - images.x_test)[~observed].square().mean().sqrt()),
            "mean imputation, RMSE": float((mean_image - images.x_test)[~observed].square().mean().sqrt()),
            "posterior std of z": float(posterior.std["z"].mean()),
        }
        if fraction == 0.5:
            figure, axes = plt.subplots(3, 1, figsize=(4.6, 3.5), layout="compressed")
            columns = {"complete": images.x_test, "observed": x, "expected under the posterior": found}
            for ax, (title, shown) in zip(axes, columns.items(), strict=True):
                avi.plots.plot_images(shown[:20], ax=ax)
                ax.set_title(title, fontsize="small")
            figure.savefig(out / "images.png", dpi=120)
    table = pd.DataFrame(rows).T.rename_axis("missing")
    print(f"\nMissing pixels of {len(images.x_test)} held-out images (intensities in [0, 1]):")
    print(f"{table.round(3).to_string()}\n\n{out}/images.png")


if __name__ == "__main__":
    main()
