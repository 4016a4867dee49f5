"""What does a two-dimensional latent space of the digits look like?

Trains a VAE with two latents and a full-covariance posterior. Plots the posterior means colored by digit, with 90 %
ellipses for some of them; images decoded from prior draws; and images decoded on a grid in the latent plane. Writes
`runs/latent_map/latent_map.png`. Takes about a minute on two cores.

    python examples/latent_map.py [--epochs 200] [--out runs/latent_map]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import amortvi as avi


def main() -> None:
    """Fit and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/latent_map"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    digits = avi.datasets.digits()
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    model = avi.models.VAE(decoder, latent_dim=2)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(64, [128, 64]), family="full")
    vi.fit(digits.x_train, epochs=arguments.epochs, batch_size=64, lr=2e-3, seed=0)

    bounds = vi.evaluate(digits.x_test, seed=0).mean()
    print(f"held-out ELBO {bounds['elbo']:.2f} nats per digit: {bounds['reconstruction']:.2f} - {bounds['kl']:.2f} KL")

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", width_ratios=[1.25, 1, 1])
    avi.plots.plot_latents(vi, digits.x_test, labels=digits.labels_test, ellipses=30, ax=axes[0])
    prior = vi.sample_prior(100, seed=0)["z"]
    avi.plots.plot_images(model.decode(prior), ax=axes[1])
    axes[1].set_title("decoded draws from the prior", fontsize="small")
    # z[0] increases from left to right and z[1] from bottom to top, in equal steps of prior probability.
    steps = torch.special.ndtri(torch.linspace(0.03, 0.97, 12))
    grid = torch.cartesian_prod(steps.flip(0), steps).flip(1)
    avi.plots.plot_images(model.decode(grid), columns=12, ax=axes[2])
    axes[2].set_title("decoded on a grid of equal prior probability", fontsize="small")
    figure.savefig(out / "latent_map.png", dpi=120)
    print(f"{out}/latent_map.png")


if __name__ == "__main__":
    main()
