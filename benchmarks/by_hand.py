"""The training loop that somebody writes who needs neither Pyro nor amortvi: plain PyTorch, as lean as it is usually written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Competitor
from benchmarks.problems import Problem

__all__ = ["eager", "torch_compiled"]


class HandWrittenVAE(nn.Module):
    """The problem's VAE; it returns the negative ELBO of a batch, an observation."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        features, hidden, latents = problem.features, problem.hidden, problem.latents
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of ``x`` of shape ``(B, D)``."""
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        scale = log_scale.exp()
        z = torch.addcmul(loc, scale, torch.randn_like(loc))
        misfit = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 1).sum() - log_scale.sum()
        loss: Tensor = (misfit + kl) / x.shape[0]
        return loss


def eager(problem: Problem, epochs: int, device: str = "cpu") -> Competitor:
    """Return the loop with the loss computed operation by operation."""
    return _loop(problem, epochs, device, compiled=False)


def torch_compiled(problem: Problem, epochs: int, device: str = "cpu") -> Competitor:
    """Return the loop with the loss, and so its gradient, compiled by `torch.compile`."""
    return _loop(problem, epochs, device, compiled=True)


def _loop(problem: Problem, epochs: int, device: str, *, compiled: bool) -> Competitor:
    vae = HandWrittenVAE(problem).to(device)
    # One graph for full batches and one for the last of an epoch, instead of one whose size is a variable.
    loss_of = torch.compile(vae, dynamic=False) if compiled else vae
    # One kernel for all parameters; faster than foreach=True on tensors this small.
    optimizer = torch.optim.Adam(vae.parameters(), lr=problem.lr, fused=True)
    x = problem.x.to(device)
    total = torch.zeros((), device=device)

    def run() -> None:
        for _ in range(epochs):
            total.zero_()
            for rows in torch.randperm(len(x), device=device).split(problem.batch_size):
                loss = loss_of(x[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total.add_(loss.detach(), alpha=len(rows))
            total.item()  # the epoch's loss is looked at, and on a GPU waited for

    return Competitor(run, lambda: -total.item() / len(x))
