"""Family, encoder or optimizer? Three fits of the digits, each with a different fault, and a report that identifies it.

One generative model, under which the exact posteriors are correlated, is trained and frozen. Its posterior is then
fitted three times: with an encoder that has a bottleneck of two features, with the diagonal family, and with too few
epochs. All three fits have a poor ELBO, which does not tell the cause. The gaps do: they measure the loss of the
family and the loss of the encoder, and show whether the bound was still rising. Writes
`runs/whose_fault/report.html`. Takes about a minute and a half on two cores.

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


def halved(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning-rate schedule of the fits that are trained to convergence."""
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=25, gamma=0.5)


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
    joint = avi.AmortizedVI(make_model(), avi.encoders.MLP(64, [128, 128]), "full")
    joint.fit(x_train, validation_data=x_test, epochs=60, batch_size=64, lr=2e-3, seed=0)

    def posterior(encoder: nn.Module, family: str) -> avi.AmortizedVI:
        return avi.AmortizedVI(joint.model, encoder, family, freeze_model=True)

    fits = {
        "starved encoder": posterior(nn.Sequential(nn.Linear(64, 2), nn.Tanh()), "full"),
        "diagonal family": posterior(avi.encoders.MLP(64, [128, 128]), "diagonal"),
        "stopped early": posterior(avi.encoders.MLP(64, [128, 128]), "full"),
    }
    for name, vi in fits.items():
        if name == "stopped early":
            vi.fit(x_train, validation_data=x_test, epochs=25, batch_size=64, lr=1e-4, seed=0)
        else:
            vi.fit(x_train, validation_data=x_test, epochs=200, batch_size=64, lr=3e-3, lr_schedule=halved, seed=0)

    for name, vi in fits.items():
        print(f"{name:>16}  {avi.diagnose(vi, x_test)}")
    path = avi.report(fits, x_test, out / "report.html", labels=digits.labels_test)
    print(f"\nThe report is in {path}")


if __name__ == "__main__":
    main()
