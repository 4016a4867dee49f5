"""Family, encoder or optimizer? Three fits of the digits, each with a different fault, and a report that identifies it.

One generative model is trained and frozen, with its latents rotated so that its exact posteriors are correlated. Its
posterior is then fitted three times: with an encoder that has a bottleneck of two features, with the diagonal family,
and with too few epochs. All three fits have a poor ELBO, which does not tell the cause. The gaps do: they measure the
loss of the family and the loss of the encoder, and the fit knows whether its bound was still rising. On new digits the
encoder always loses most, because it has seen the training digits hundreds of times; `fit_encoder` trains it further on
digits that the model simulates. Writes `runs/whose_fault/report.html`. Takes about a minute.

    python examples/whose_fault.py [--out runs/whose_fault]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import amortvi as avi

LATENTS = 8


def make_model() -> avi.models.VAE:
    """Return ``z ~ N(0, I)``, ``x | z ~ N(decoder(z), s^2)`` with a learned ``s``."""
    decoder = nn.Sequential(nn.Linear(LATENTS, 64), nn.Tanh(), nn.Linear(64, 64))
    return avi.models.VAE(decoder, LATENTS, likelihood="normal")


def main() -> None:
    """Fit, diagnose and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/whose_fault"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    digits = avi.datasets.digits()
    x_train, x_test = digits.x_train, digits.x_test
    torch.manual_seed(0)
    joint = avi.AmortizedVI(make_model(), avi.encoders.MLP(64), "full").fit(x_train, validation_data=0.1, seed=0)
    joint.model.decoder[0].weight.data @= torch.linalg.qr(torch.randn(LATENTS, LATENTS)).Q

    def posterior(encoder: nn.Module, family: str) -> avi.AmortizedVI:
        return avi.AmortizedVI(joint.model, encoder, family, freeze_model=True)

    fits = {
        "starved encoder": posterior(nn.Sequential(nn.Linear(64, 2), nn.Tanh()), "full").fit(x_train, seed=0),
        "diagonal family": posterior(avi.encoders.MLP(64), "diagonal").fit(x_train, seed=0),
        "stopped early": posterior(avi.encoders.MLP(64), "full").fit(x_train, epochs=10, seed=0),
    }
    for name, vi in fits.items():
        print(f"{name:>16}  {avi.diagnose(vi, x_train[:300])}")
    path = avi.report(fits, x_train[:300], out / "report.html", labels=digits.labels_train[:300])

    full = posterior(avi.encoders.MLP(64), "full").fit(x_train, seed=0)
    print(f"{'new digits':>16}  {avi.diagnose(full, x_test)}")
    print(f"{'after fit_encoder':>16}  {avi.diagnose(full.fit_encoder(x_train, epochs=60, seed=0), x_test)}")
    print(f"\nThe report is in {path}")


if __name__ == "__main__":
    main()
