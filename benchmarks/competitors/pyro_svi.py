"""Pyro: `SVI` with a hand-written guide, as in Pyro's VAE example, and a leaner loop around Pyro's ELBO."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI, TraceMeanField_ELBO
from torch import Tensor, nn

from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor

__all__ = ["loop_around_loss", "svi"]


class PyroVAE(nn.Module):
    """Model and guide. They take the batch size as ``size``, so that `JitTrace_ELBO` traces each batch size once."""

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
            # Without validation, as in Pyro's example: a validated Bernoulli rejects intensities between 0 and 1.
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor, *, size: int) -> None:
        """``z | x ~ N(loc(x), scale(x))``."""
        pyro.module("encoder", self.encoder)
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", size):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def svi(problem: Problem, epochs: int, elbo: ELBO, *, device: str = "cpu") -> Competitor:
    """Return the loop of `SVI.step`, with Pyro's defaults, including the validation of distributions.

    Args:
        problem: the model and the data.
        epochs: epochs per run.
        elbo: the loss.
        device: the device of the computation.
    """
    vae = PyroVAE(problem).to(device)
    trainer = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": problem.lr}), elbo)
    x = problem.x.to(device)
    state: dict[str, Any] = {"params": {}, "constraints": {}}
    losses: list[float] = []

    def run() -> None:
        # The param store is global; during its run each competitor has its own.
        with pyro.get_param_store().scope(state):
            for _ in range(epochs):
                losses.clear()
                for rows in torch.randperm(len(x), device=device).split(problem.batch_size):
                    losses.append(trainer.step(x[rows], size=len(rows)))

    return Competitor(run, lambda: -sum(losses) / len(x))


def loop_around_loss(problem: Problem, epochs: int) -> Competitor:
    """Return an expert's loop around Pyro's loss: the KL in closed form, one fused Adam, no validation.

    Args:
        problem: the model and the data.
        epochs: epochs per run.
    """
    vae = PyroVAE(problem)
    elbo = TraceMeanField_ELBO()
    optimizer = torch.optim.Adam(vae.parameters(), lr=problem.lr, fused=True)
    x = problem.x
    total = torch.zeros(())
    state: dict[str, Any] = {"params": {}, "constraints": {}}

    def run() -> None:
        with pyro.get_param_store().scope(state), pyro.validation_enabled(False):
            for _ in range(epochs):
                total.zero_()
                for rows in torch.randperm(len(x)).split(problem.batch_size):
                    loss = elbo.differentiable_loss(vae.model, vae.guide, x[rows], size=len(rows))
                    optimizer.zero_grad()
                    (loss / len(rows)).backward()
                    optimizer.step()
                    total.add_(loss.detach())
                total.item()

    return Competitor(run, lambda: -total.item() / len(x))
