"""Partial pooling: global latents beside one posterior for each group, against NUTS on the whole model.

    mu_k ~ N(0, 2),  tau_k ~ HalfNormal(1),  sigma ~ HalfNormal(1)                  intercept (k = 1) and slope (k = 2)
    z_i ~ N(mu, diag(tau^2)),  y_ij ~ N(z_i1 + z_i2 x_ij, sigma^2)                  group i has 3 to 15 points

The posterior is q(mu, tau, sigma) prod_i q(z_i | group i): an automatic guide of Pyro for the global latents, and an encoder
that reads a group's padded points and their mask. With the ELBO, q(z_i | group i) has to suit every value of the global latents,
so these come out too narrow. The importance-weighted bound is tight for every value, and corrects that.

The second part is the eight-schools model: with a centred and a non-centred parametrization, and eight observations.

Prints, for each global latent, the difference of the means in standard deviations of NUTS, and the ratio of the standard
deviations. In the regression, the importance-weighted bound is within 0.03 standard deviations and 5 percent of NUTS with all
groups at once, and within 0.11 and 6 percent with small batches; the standard errors of NUTS are about 0.04. In the
eight-schools model tau has a long tail, which the normal guide of log tau makes longer: its bulk is right, its standard deviation
is not. Takes about four minutes.

    python examples/hierarchical_regression.py [--groups 100] [--draws 1000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn

import amortvi as avi

MOST = 15
"""The largest number of points of a group."""


def regression(x: Tensor, y: Tensor, mask: Tensor) -> None:
    """Run the model on groups of points, each ``(B, MOST)``."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    tau = pyro.sample("tau", dist.HalfNormal(torch.ones(2)).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("groups", x.shape[0]):
        z = pyro.sample("z", dist.Normal(mu, tau).to_event(1))
        pyro.sample("y", dist.Normal(z[:, :1] + z[:, 1:] * x, sigma).mask(mask).to_event(1), obs=y)


def groups(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return points of ``count`` groups, padded with zeros, and their mask."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, MOST + 1, (count, 1), generator=generator)
    mask = torch.arange(MOST) < sizes
    x = torch.randn(count, MOST, generator=generator) * mask
    z = torch.tensor([1.0, -0.5]) + torch.tensor([0.7, 0.4]) * torch.randn(count, 2, generator=generator)
    y = z[:, :1] + z[:, 1:] * x + 0.6 * torch.randn(count, MOST, generator=generator)
    return x, y * mask, mask


class GroupEncoder(nn.Module):
    """An encoder of a set of points: sums of a network over the points, and the least-squares fit of the group."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """Map points, each ``(B, MOST)``, to a context ``(B, 72)``."""
        seen = mask.to(x)
        n, sx, sy = (value.sum(1) for value in (seen, x * seen, y * seen))
        sxx, sxy, syy = ((value * seen).sum(1) for value in (x * x, x * y, y * y))
        # The posterior means of a ridge regression are nearly those of the group.
        a, c = n + 1.0, sxx + 1.0
        determinant = a * c - sx * sx
        intercept, slope = (c * sy - sx * sxy) / determinant, (a * sxy - sx * sy) / determinant
        features = torch.stack([n, sx, sy, sxx, sxy, syy, intercept, slope], dim=-1)
        scaled = torch.cat([features[:, :6] / n.unsqueeze(-1), features[:, 6:]], dim=-1)
        return torch.cat([scaled, self.head(torch.cat([1 / n.unsqueeze(-1), scaled[:, 1:]], dim=-1))], dim=-1)


def nuts(model: Callable[..., Any], arguments: tuple[Tensor, ...], draws: int) -> dict[str, Tensor]:
    """Return draws of every latent of the whole model."""
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(model), num_samples=draws, warmup_steps=draws // 2, disable_progbar=True)
    chain.run(*arguments)
    return chain.get_samples()


def compared(vi: avi.AmortizedVI, x: Any, reference: Mapping[str, Tensor], label: str) -> pd.DataFrame:
    """Compare the global latents with those of NUTS, one row for each of their elements."""
    posterior, rows = vi.posterior(x), {}
    mean, std = posterior.mean, posterior.std
    for site in vi.generative.structure.globals:
        exact = reference[site.name]
        shift, ratio = (mean[site.name] - exact.mean(0)) / exact.std(0), std[site.name] / exact.std(0)
        for element, values in zip(site.labels, zip(shift.reshape(-1), ratio.reshape(-1), strict=True), strict=True):
            rows[label, element] = [float(value) for value in values]
    table = pd.DataFrame(rows, index=["mean difference / sd", "sd ratio"]).T
    return table.rename_axis(["fit", "latent"])


def centred(y: Tensor, s: Tensor) -> None:
    """Run the eight-schools model on effects with known standard errors, each ``(B,)``."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", y.shape[0]):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, s), obs=y)


def non_centred(y: Tensor, s: Tensor) -> None:
    """Run the same model with standardized latents."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", y.shape[0]):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, s), obs=y)


class SchoolEncoder(nn.Module):
    """An encoder of the effect and the standard error of one school."""

    def __init__(self) -> None:
        super().__init__()
        self.network = avi.encoders.MLP(2, [32, 32])

    def forward(self, y: Tensor, s: Tensor) -> Tensor:
        """Map ``(B,)`` and ``(B,)`` to ``(B, 32)``."""
        return self.network(torch.stack([y, s], dim=-1))


OBJECTIVES: dict[str, Any] = {"elbo": "elbo", "iwae": avi.objectives.IWAE(20)}


def regression_tables(count: int, draws: int) -> Iterator[pd.DataFrame]:
    """Fit the regression with small batches and with all groups at once."""
    data = groups(count)
    reference = nuts(regression, data, draws)
    for name, objective in OBJECTIVES.items():
        for size, epochs in ((32, 2000), (count, 4000)):
            torch.manual_seed(0)
            vi = avi.AmortizedVI(regression, GroupEncoder(), "full", global_guide=AutoMultivariateNormal)
            vi.fit(data, objective=objective, batch_size=size, epochs=epochs, lr=2e-3, seed=0, progress=False)
            yield compared(vi, data, reference, f"{name}, batches of {size}")


def school_tables(draws: int) -> Iterator[pd.DataFrame]:
    """Fit both parametrizations of the eight-schools model."""
    data = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
    reference = nuts(non_centred, data, draws)
    for model in (centred, non_centred):
        for name, objective in OBJECTIVES.items():
            torch.manual_seed(0)
            vi = avi.AmortizedVI(model, SchoolEncoder(), "full", global_guide=AutoMultivariateNormal)
            vi.fit(data, objective=objective, epochs=3000, lr=0.01, seed=0, progress=False)
            yield compared(vi, data, reference, f"{name}, {model.__name__}")


def main() -> None:
    """Fit both models and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    print("Global latents against NUTS: regression of groups")
    print(pd.concat(regression_tables(arguments.groups, arguments.draws)).round(2).to_string())
    print("\nGlobal latents against NUTS: eight schools")
    print(pd.concat(school_tables(arguments.draws)).round(2).to_string())


if __name__ == "__main__":
    main()
