"""Cremer, Li and Duvenaud (2018): how much does the posterior family lose, and how much the encoder?

Trains a VAE with each family on the digits and, if its IDX files are given (`--data FOLDER`, or the environment
variable AMORTVI_DATA), on MNIST. The evidence of held-out images is estimated from refined posteriors with full
covariance; the gaps split the inference gap between family and encoder. Prints the tables, and plots them in
`runs/inference_gaps/`. The digits take about a minute on two cores, MNIST about a quarter of an hour.

    python examples/inference_gaps.py [--data FOLDER] [--images 1000] [--out runs/inference_gaps]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

import amortvi as avi

FAMILIES = ["diagonal", "low_rank", "full"]


@dataclass(frozen=True)
class Study:
    """Data, and the architecture and training of the VAEs.

    Args:
        images: the data.
        latents: the number of latent dimensions.
        hidden: units in each of the two hidden layers of decoder and encoder.
        epochs: passes over the data.
        likelihood: the likelihood of the VAE.
    """

    images: avi.datasets.ImageSplits
    latents: int
    hidden: int
    epochs: int
    likelihood: str = "bernoulli"

    def model(self) -> avi.models.VAE:
        """Return the generative model."""
        pixels = self.images.x_train.shape[1]
        layers = [nn.Linear(self.latents, self.hidden), nn.Tanh(), nn.Linear(self.hidden, self.hidden), nn.Tanh()]
        return avi.models.VAE(nn.Sequential(*layers, nn.Linear(self.hidden, pixels)), self.latents, self.likelihood)

    def encoder(self) -> nn.Module:
        """Return the encoder."""
        return avi.encoders.MLP(self.images.x_train.shape[1], [self.hidden, self.hidden])


def gaps_of(study: Study, x_train: Tensor, x_test: Tensor) -> dict[str, avi.Gaps]:
    """Fit every family and compute its gaps on held-out images."""
    torch.manual_seed(0)
    fits = avi.fit_families(
        study.model(), study.encoder(), FAMILIES, x_train, epochs=study.epochs, batch_size=100, lr=1e-3
    )
    return {family: avi.gaps(vi, x_test, draws=1000) for family, vi in fits.items()}


def make_table(found: dict[str, avi.Gaps]) -> pd.DataFrame:
    """Return the mean gaps and the standard error of the inference gap, one row per family."""
    rows = {}
    for family, gaps in found.items():
        summary = gaps.summary()
        rows[family] = {
            "log p(x)": summary.loc["evidence", "mean"],
            "ELBO": summary.loc["elbo", "mean"],
            "approximation gap": summary.loc["approximation_gap", "mean"],
            "amortization gap": summary.loc["amortization_gap", "mean"],
            "inference gap": summary.loc["inference_gap", "mean"],
            "se": summary.loc["inference_gap", "se"],
            "unreliable": gaps.verdicts()["unreliable"],
        }
    return pd.DataFrame(rows).T


def main() -> None:
    """Fit, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="the folder of MNIST's IDX files")
    parser.add_argument("--images", type=int, default=1000, help="the number of held-out images")
    parser.add_argument("--epochs", type=int, default=20, help="passes over MNIST")
    parser.add_argument("--out", type=Path, default=Path("runs/inference_gaps"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    digits = avi.datasets.digits()
    studies = {
        "digits": Study(digits, latents=8, hidden=64, epochs=150),
        "digits, Normal likelihood": Study(digits, latents=8, hidden=64, epochs=150, likelihood="normal"),
    }
    try:
        studies["MNIST"] = Study(avi.datasets.mnist(arguments.data), latents=50, hidden=200, epochs=arguments.epochs)
    except avi.errors.DataError as error:
        print(f"MNIST is skipped: {error}\n")
    for name, study in studies.items():
        x_train, x_test = study.images.x_train, study.images.x_test[: arguments.images]
        if name == "MNIST":  # binarized once, as in the paper
            generator = torch.Generator().manual_seed(0)
            x_train, x_test = (torch.bernoulli(x, generator=generator) for x in (x_train, x_test))
        found = gaps_of(study, x_train, x_test)
        table = make_table(found)
        table.to_csv(out / f"{name}.csv")
        print(f"{name}: {len(x_test)} held-out images (nats per image)\n{table.round(2).to_string()}\n", flush=True)
        figure = avi.plots.plot_gaps(found).figure
        figure.savefig(out / f"{name}.png", dpi=150)
        plt.close(figure)


if __name__ == "__main__":
    main()
