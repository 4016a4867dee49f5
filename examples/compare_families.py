"""What does the choice of the posterior family cost? Three families on the digits, compared in two ways.

First, each family is trained together with its own decoder, as in practice. Such a decoder adapts to its posterior:
it aligns the latents with the axes along which a diagonal posterior loses little. Second, all three families share one
frozen decoder with rotated latents. A rotation changes nothing for the model, but makes its exact posteriors
correlated. The comparisons include the gaps: what each family loses, and what its encoder loses on new digits. All
fits end by themselves, once their validation ELBO has leveled off. Writes the tables (CSV), the
posteriors of the test digits for ArviZ (NetCDF) and figures (PNG) to `runs/compare_families/`. Takes about a minute.

    python examples/compare_families.py [--out runs/compare_families]
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import arviz as az
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn

import amortvi as avi

FAMILIES = ["diagonal", "low_rank", "full"]
LATENTS = 8


def make_model() -> avi.models.VAE:
    """Return ``z ~ N(0, I)``, ``x | z ~ N(decoder(z), s^2)`` with a learned ``s``."""
    decoder = nn.Sequential(nn.Linear(LATENTS, 64), nn.Tanh(), nn.Linear(64, 64))
    return avi.models.VAE(decoder, LATENTS, likelihood="normal")


def show(title: str, table: pd.DataFrame) -> None:
    """Print a table below its title."""
    print(f"\n{title}\n{table.round(3).to_string()}")


def main() -> None:
    """Fit, compare, export and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/compare_families"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    digits = avi.datasets.digits()
    torch.manual_seed(0)
    model, encoder = make_model(), avi.encoders.MLP(64, [64, 64])

    joint = avi.fit_families(model, encoder, FAMILIES, digits.x_train, validation_data=0.1)
    joint_table = avi.compare(joint, digits.x_test, gaps=True)
    show("Each family with its own decoder (nats per test digit):", joint_table)

    rotated = copy.deepcopy(joint["full"].model)
    rotated.decoder[0].weight.data @= torch.linalg.qr(torch.randn(LATENTS, LATENTS)).Q
    frozen = avi.fit_families(rotated, encoder, FAMILIES, digits.x_train, freeze_model=True, validation_data=0.1)
    frozen_table = avi.compare(frozen, digits.x_test, gaps=True)
    show("All families with the same frozen decoder, its latents rotated:", frozen_table)
    joint_table.to_csv(out / "joint.csv")
    frozen_table.to_csv(out / "frozen.csv")

    vi = frozen["full"]
    data = vi.to_arviz(digits.x_test[:100], draws=125, seed=0)
    data.to_netcdf(str(out / "posterior.nc"))
    print("\nArviZ summary of the posteriors of the first three test digits:")
    print(az.summary(data["posterior"].isel(data=slice(0, 3)), kind="stats").round(2).to_string())

    draw(joint, frozen_table, vi, digits, out)
    print(f"\nTables, posterior and figures are in {out}/")


def draw(
    joint: avi.FamilyFits, table: pd.DataFrame, vi: avi.AmortizedVI, digits: avi.datasets.ImageSplits, out: Path
) -> None:
    """Write the figures."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.4), layout="constrained")
    avi.plots.plot_training(joint, ax=axes[0, 0])
    avi.plots.plot_comparison(table, ax=axes[0, 1])
    posterior = vi.posterior(digits.x_test)
    avi.plots.plot_latents(posterior, labels=digits.labels_test, ax=axes[1, 0])
    avi.plots.plot_correlation(posterior, observation=0, ax=axes[1, 1])
    figure.savefig(out / "comparison.png", dpi=120)

    figure, axes = plt.subplots(2, 1, figsize=(4.6, 2.9), layout="compressed", height_ratios=[2, 4])
    means = vi.predict(digits.x_test[:10], draws=50, seed=0)["x"].mean(0)
    avi.plots.plot_reconstructions(digits.x_test[:10], means.clamp(0, 1), ax=axes[0])
    axes[0].set_title("test digits and their posterior predictive means", fontsize="small")
    avi.plots.plot_images(vi.model.decode(vi.sample_prior(40, seed=0)["z"]).clamp(0, 1), ax=axes[1])
    axes[1].set_title("decoded draws from the prior", fontsize="small")
    figure.savefig(out / "images.png", dpi=120)


if __name__ == "__main__":
    main()
