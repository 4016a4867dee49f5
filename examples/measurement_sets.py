"""Sets of 3 to 50 measurements: one fit gives the posterior of a mean for sets of every size.

    mu ~ N(0, 1),  x_j | mu ~ N(mu, s^2) for j = 1, ..., n,   s = 2

`avi.pad` turns sets of unequal size into one padded array and a mask. The model excludes the padding with `.mask(mask)`,
and `encoders.DeepSets` reads only the measurements. Posterior and evidence are known in closed form, so the table shows
what the fit loses at each size: the gap between the log evidence and the ELBO of held-out sets, and the error of the
posterior mean in units of the exact standard deviation. Takes about half a minute on two cores.

    python examples/measurement_sets.py [--sets 5000] [--seed 0] [--pooling mean]
"""

from __future__ import annotations

import argparse
import math

import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi

SCALE, SMALLEST, LARGEST = 2.0, 3, 50
SIZES = [3, 5, 10, 20, 35, 50]
HELD_OUT = 400
"""The number of held-out sets of each size."""


def model(x: Tensor, mask: Tensor) -> None:
    """Run the generative model on ``x``, ``(B, L)``, of which ``mask``, ``(B, L)``, tells measurements from padding."""
    with pyro.plate("sets", x.shape[0]):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mu.unsqueeze(-1), SCALE).mask(mask).to_event(1), obs=x)


def simulate(sizes: Tensor, generator: torch.Generator) -> avi.Padded:
    """Draw one set of each size."""
    means = torch.randn(len(sizes), generator=generator)
    sets = [mu + SCALE * torch.randn(int(n), generator=generator) for mu, n in zip(means, sizes, strict=True)]
    return avi.pad(sets, length=LARGEST)


def log_evidence(x: Tensor, mask: Tensor) -> Tensor:
    """Return the exact log density of each set, ``(B,)``: normal, with covariance s^2 I + 1 1'."""
    count, ratio = mask.sum(1), mask.sum(1) / SCALE**2
    total, squares = x.sum(1) / SCALE, x.square().sum(1) / SCALE**2
    quadratic = squares - total**2 / SCALE**2 / (1 + ratio)
    return -0.5 * (count * math.log(2 * math.pi * SCALE**2) + ratio.log1p() + quadratic)


def compare(vi: avi.AmortizedVI, x: avi.Padded) -> dict[str, float]:
    """Compare the posteriors of sets of one size with the exact ones."""
    exact_std = (1 + x.mask.sum(1) / SCALE**2).rsqrt()
    exact_mean = exact_std**2 * x.values.sum(1) / SCALE**2
    posterior = vi.posterior(x)
    elbo = vi.evaluate(posterior=posterior, particles=100, seed=0)["elbo"]
    return {
        "log p(x)": float(log_evidence(*x).mean()),
        "gap": float(log_evidence(*x).mean() - elbo.mean()),
        "error of the mean": float(((posterior.mean["mu"] - exact_mean) / exact_std).square().mean().sqrt()),
        "exact std": float(exact_std.mean()),
        "std": float(posterior.std["mu"].mean()),
    }


def main() -> None:
    """Fit once, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=5000, help="the number of sets to train on")
    parser.add_argument("--epochs", type=int, default=None, help="passes over them; by default until convergence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pooling", default="mean", choices=["mean", "sum", "max"])
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(arguments.seed)
    train = simulate(torch.randint(SMALLEST, LARGEST + 1, (arguments.sets,), generator=generator), generator)
    torch.manual_seed(arguments.seed)
    encoder = avi.encoders.DeepSets(in_features=1, pooling=arguments.pooling)
    vi = avi.AmortizedVI(model, encoder, "diagonal")
    vi.fit(train, epochs=arguments.epochs, seed=arguments.seed)
    print(f"{arguments.sets} sets of {SMALLEST} to {LARGEST} measurements, {len(vi.history)} epochs: {vi.status}\n")

    found = {n: compare(vi, simulate(torch.full((HELD_OUT,), n), generator)) for n in SIZES}
    table = pd.DataFrame(found).T.rename_axis("size")
    print(f"{HELD_OUT} held-out sets of each size (nats per set):\n{table.round(4).to_string()}")


if __name__ == "__main__":
    main()
