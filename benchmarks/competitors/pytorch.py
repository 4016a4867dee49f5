"""PyTorch without a library for inference: a hand-written VAE and a lean training loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor

__all__ = ["training_loop"]


class HandWrittenVAE(nn.Module):
    """The VAE of a problem; it returns the negative ELBO per observation."""

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
        reconstruction_loss = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + scale.square() - 1).sum() - log_scale.sum()
        loss: Tensor = (reconstruction_loss + kl) / x.shape[0]
        return loss


def training_loop(problem: Problem, epochs: int, *, compile: bool = False, device: str = "cpu") -> Competitor:
    """Return the training loop.

    Args:
        problem: the model and the data.
        epochs: epochs per run.
        compile: whether `torch.compile` compiles the loss and its gradient.
        device: the device of the computation.
    """
    vae = HandWrittenVAE(problem).to(device)
    # One graph for full batches and one for the last batch of an epoch, instead of one with a symbolic batch size.
    loss_of = torch.compile(vae, dynamic=False) if compile else vae
    # One kernel for all parameters; for tensors this small it is faster than foreach=True.
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
            total.item()  # reads the loss of the epoch, which waits for the GPU

    return Competitor(run, lambda: -total.item() / len(x))
