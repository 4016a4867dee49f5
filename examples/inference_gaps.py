"""Cremer, Li and Duvenaud's question (2018): what is lost to the posterior family, and what to the encoder?

A VAE for each family, trained with it, on the digits and, where its IDX files are given (`--data FOLDER`, or the environment
variable AMORTVI_DATA), on MNIST. For held-out images the evidence is estimated from refined posteriors with full covariance,
and the gaps say where the nats go. Prints the tables and draws them to `runs/inference_gaps/`. The digits take about a minute
on two cores, MNIST about a quarter of an hour.

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
    """What is trained on what.

    Args:
        images: the data.
        latents: how many.
        hidden: units in each of the two hidden layers of decoder and encoder.
        epochs: passes over the data.
        likelihood: of the VAE.
    """

    images: avi.datasets.ImageSplits
    latents: int
    hidden: int
    epochs: int
    likelihood: str = "bernoulli"

    def model(self) -> avi.models.VAE:
        """Return the generative model, two hidden layers wide."""
        pixels = self.images.x_train.shape[1]
        layers = [nn.Linear(self.latents, self.hidden), nn.Tanh(), nn.Linear(self.hidden, self.hidden), nn.Tanh()]
        return avi.models.VAE(nn.Sequential(*layers, nn.Linear(self.hidden, pixels)), self.latents, self.likelihood)

    def encoder(self) -> nn.Module:
        """Return the encoder."""
        return avi.encoders.MLP(self.images.x_train.shape[1], [self.hidden, self.hidden])


def gaps_of(study: Study, x_train: Tensor, x_test: Tensor) -> dict[str, avi.Gaps]:
    """Fit every family and take its loss apart."""
    torch.manual_seed(0)
    fits = avi.fit_families(
        study.model(), study.encoder(), FAMILIES, x_train, epochs=study.epochs, batch_size=100, lr=1e-3
    )
    return {family: avi.gaps(vi, x_test, draws=1000) for family, vi in fits.items()}


def tabled(found: dict[str, avi.Gaps]) -> pd.DataFrame:
    """Return the means and standard errors of the gaps, a row a family."""
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
            "not to be trusted": gaps.verdicts()["do not trust"],
        }
    return pd.DataFrame(rows).T


def main() -> None:
    """Fit, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="the folder of MNIST's IDX files")
    parser.add_argument("--images", type=int, default=1000, help="held-out images of MNIST")
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
        print(f"MNIST is left out: {error}\n")
    for name, study in studies.items():
        x_train, x_test = study.images.x_train, study.images.x_test[: arguments.images]
        if name == "MNIST":  # binarised once, as the digits of the paper are
            generator = torch.Generator().manual_seed(0)
            x_train, x_test = (torch.bernoulli(x, generator=generator) for x in (x_train, x_test))
        found = gaps_of(study, x_train, x_test)
        table = tabled(found)
        table.to_csv(out / f"{name}.csv")
        print(f"{name}: {len(x_test)} held-out images (nats an image)\n{table.round(2).to_string()}\n", flush=True)
        figure = avi.plots.plot_gaps(found).figure
        figure.savefig(out / f"{name}.png", dpi=150)
        plt.close(figure)


if __name__ == "__main__":
    main()
