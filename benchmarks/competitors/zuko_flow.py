"""zuko as its documentation uses it: a VAE whose posterior is a conditional neural spline flow, in eager PyTorch."""

from __future__ import annotations

import torch
import zuko
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor

__all__ = ["zuko_steps"]


def zuko_steps(problem: Problem, epochs: int, *, transforms: int = 3) -> Competitor:
    """Return a plain training loop with the same architecture as a fit with the family ``flow``.

    Args:
        problem: the model and the data.
        epochs: epochs per run; a further run continues from the last one.
        transforms: the number of autoregressive transforms.
    """
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(problem.features, problem.hidden), nn.ReLU())
    decoder = nn.Sequential(
        nn.Linear(problem.latents, problem.hidden), nn.ReLU(), nn.Linear(problem.hidden, problem.features)
    )
    flow = zuko.flows.NSF(problem.latents, problem.hidden, transforms=transforms, hidden_features=(64, 64))
    parameters = [p for module in (encoder, decoder, flow) for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=problem.lr)
    prior = Independent(Normal(torch.zeros(problem.latents), torch.ones(problem.latents)), 1)
    losses: list[float] = []

    def run() -> None:
        for _ in range(epochs):
            for rows in torch.randperm(len(problem.x)).split(problem.batch_size):
                x = problem.x[rows]
                z, log_q = flow(encoder(x)).rsample_and_log_prob()
                likelihood = Independent(Bernoulli(logits=decoder(z), validate_args=False), 1)
                loss = (log_q - prior.log_prob(z) - likelihood.log_prob(x)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses.append(float(loss.detach()))

    return Competitor(run, lambda: -losses[-1])
