"""Pyro: `SVI` with a hand-written guide, as in Pyro's own example of a VAE, and a leaner loop around Pyro's ELBO."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI, TraceMeanField_ELBO
from torch import Tensor, nn

from benchmarks.harness import Competitor
from benchmarks.problems import Problem

__all__ = ["loop_around_loss", "svi"]


class PyroVAE(nn.Module):
    """Model and guide. ``size`` is the number of observations, which `JitTrace_ELBO` must be told of to trace each size once."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        features, hidden, latents = problem.features, problem.hidden, problem.latents
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, features))
        self.latents = latents

    def model(self, x: Tensor, *, size: int) -> None:
        """``z ~ N(0, I)``, ``x | z ~ Bernoulli``."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latents), x.new_ones(self.latents)).to_event(1))
            # Without its check, as in Pyro's example: a Bernoulli distribution refuses intensities between 0 and 1.
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor, *, size: int) -> None:
        """``z | x ~ N(loc(x), scale(x))``."""
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def svi(problem: Problem, epochs: int, elbo: ELBO, device: str = "cpu") -> Competitor:
    """Return the loop of `SVI.step`, with Pyro's defaults, its checks of distributions among them.

    Args:
        problem: what is fitted.
        epochs: of one run.
        elbo: the loss.
        device: where everything is.
    """
    vae = PyroVAE(problem).to(device)
    steps = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": problem.lr}), elbo)
    x = problem.x.to(device)
    state: dict[str, Any] = {"params": {}, "constraints": {}}
    losses: list[float] = []

    def run() -> None:
        # Each competitor has the process's store of parameters to itself while it runs.
        with pyro.get_param_store().scope(state):
            for _ in range(epochs):
                losses.clear()
                for rows in torch.randperm(len(x), device=device).split(problem.batch_size):
                    losses.append(steps.step(x[rows], size=len(rows)))

    return Competitor(run, lambda: -sum(losses) / len(x))


def loop_around_loss(problem: Problem, epochs: int, device: str = "cpu") -> Competitor:
    """Return what somebody writes who knows Pyro's insides: its ELBO with exact KL, one fused Adam, no checks."""
    vae = PyroVAE(problem).to(device)
    elbo = TraceMeanField_ELBO()
    optimizer = torch.optim.Adam(vae.parameters(), lr=problem.lr, fused=True)
    x = problem.x.to(device)
    total = torch.zeros((), device=device)
    state: dict[str, Any] = {"params": {}, "constraints": {}}

    def run() -> None:
        with pyro.get_param_store().scope(state), pyro.validation_enabled(False):
            for _ in range(epochs):
                total.zero_()
                for rows in torch.randperm(len(x), device=device).split(problem.batch_size):
                    loss = elbo.differentiable_loss(vae.model, vae.guide, x[rows], size=len(rows))
                    optimizer.zero_grad()
                    (loss / len(rows)).backward()
                    optimizer.step()
                    total.add_(loss.detach())
                total.item()

    return Competitor(run, lambda: -total.item() / len(x))
