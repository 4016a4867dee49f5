"""Beyond VAEs: any Pyro model with continuous latents for each observation.

The first model has two latent sites, a normal ability and a positive pace, for the answers and times of an exam. The
second is a Gamma-Poisson model, whose exact posterior is known and compared with the fitted one. Prints tables and an
ArviZ summary. Takes half a minute.

    python examples/any_pyro_model.py
"""

from __future__ import annotations

from functools import partial

import arviz as az
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam

import amortvi as avi

QUESTIONS = 12


class Exam(PyroModule):
    """Each student has an ability, which affects answers and times, and a positive pace, which affects the times."""

    def __init__(self) -> None:
        super().__init__()
        self.difficulty = PyroParam(torch.zeros(QUESTIONS))
        self.noise = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)

    def forward(self, answers: torch.Tensor, times: torch.Tensor) -> None:
        """Run the model on ``answers`` (0 or 1) and ``times`` (in minutes), both ``(B, QUESTIONS)``."""
        with pyro.plate("student", answers.shape[0]):
            ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
            pace = pyro.sample("pace", dist.LogNormal(0.0, 0.5))
            logits = ability.unsqueeze(-1) - self.difficulty
            pyro.sample("answers", dist.Bernoulli(logits=logits).to_event(1), obs=answers)
            log_time = (pace.log() - 0.3 * ability).unsqueeze(-1)
            pyro.sample("times", dist.LogNormal(log_time.expand_as(times), self.noise).to_event(1), obs=times)


def simulate_exam(students: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Simulate students and return their answers, times, abilities and paces."""
    generator = torch.Generator().manual_seed(0)
    ability = torch.randn(students, generator=generator)
    pace = (0.5 * torch.randn(students, generator=generator)).exp()
    difficulty = torch.linspace(-1.5, 1.5, QUESTIONS)
    chances = torch.sigmoid(ability.unsqueeze(-1) - difficulty)
    answers = torch.bernoulli(chances, generator=generator)
    noise = 0.4 * torch.randn(students, QUESTIONS, generator=generator)
    times = (pace.log().unsqueeze(-1) - 0.3 * ability.unsqueeze(-1) + noise).exp()
    return answers, times, ability, pace


def exam() -> None:
    """Fit the model with two latent sites and print its posteriors."""
    answers, times, ability, pace = simulate_exam(2000)
    torch.manual_seed(0)
    # The encoder is called with the model's arguments; MLP concatenates them.
    encoder = avi.encoders.MLP(2 * QUESTIONS, [64])
    vi = avi.AmortizedVI(Exam(), encoder, family="full")
    vi.fit((answers, times), epochs=60, lr=5e-3, seed=0, progress=False)

    low, high = 0.05, 0.95
    posterior = vi.posterior((answers, times))
    rows = {}
    for name, truth in {"ability": ability, "pace": pace}.items():
        interval = posterior.quantiles([low, high])[name]
        rows[name] = {
            "correlation with truth": float(torch.corrcoef(torch.stack([posterior.mean[name], truth]))[0, 1]),
            "coverage (90 %)": float(((truth > interval[0]) & (truth < interval[1])).float().mean()),
        }
    print("Exam: two latent sites, one of them positive; the posteriors of 2,000 students")
    print(pd.DataFrame(rows).T.round(3).to_string())
    print(f"Learned noise of the log times: {float(vi.model.noise.detach()):.3f} (true value 0.4)\n")
    data = vi.to_arviz((answers[:2], times[:2]), draws=250, prior_draws=0, seed=0)
    print(az.summary(data["posterior"], kind="stats").round(2).to_string())


def gamma_poisson() -> None:
    """Fit a conjugate model: rate ~ Gamma(a, b), counts ~ Poisson(rate), with the posterior Gamma(a + sum, b + n)."""
    shape, rate, repeats = 3.0, 1.0, 5

    def model(counts: torch.Tensor) -> None:
        with pyro.plate("shop", counts.shape[0]):
            customers = pyro.sample("customers", dist.Gamma(shape, rate))
            pyro.sample("counts", dist.Poisson(customers.unsqueeze(-1).expand_as(counts)).to_event(1), obs=counts)

    generator = torch.Generator().manual_seed(1)
    truth = torch._standard_gamma(torch.full((2000,), shape), generator=generator) / rate
    counts = torch.poisson(truth.unsqueeze(-1).expand(-1, repeats), generator=generator)
    torch.manual_seed(0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(repeats, [64, 64]), family="diagonal")
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=100)
    vi.fit(counts, epochs=100, lr=5e-3, lr_schedule=schedule, seed=0, progress=False)

    exact = torch.distributions.Gamma(shape + counts.sum(-1), rate + repeats)
    posterior = vi.posterior(counts)
    # log p(x) = log p(x, z) - log p(z | x), for any z.
    prior, likelihood = torch.distributions.Gamma(shape, rate), torch.distributions.Poisson(exact.mean.unsqueeze(-1))
    evidence = prior.log_prob(exact.mean) + likelihood.log_prob(counts).sum(-1) - exact.log_prob(exact.mean)
    table = pd.DataFrame(
        {
            "customers": counts.sum(-1)[:6].int(),
            "exact mean": exact.mean[:6],
            "mean": posterior.mean["customers"][:6],
            "exact std": exact.stddev[:6],
            "std": posterior.std["customers"][:6],
        }
    )
    print("\nGamma-Poisson: log-normal posteriors and the exact Gamma posteriors of six of 2,000 shops")
    print(table.round(3).to_string(index=False))
    gap = float(evidence.mean()) - vi.evaluate(counts, seed=0)["elbo"].mean()
    print(f"log p(x) - ELBO = {gap:.4f} nats per observation; a log-normal posterior cannot close this gap entirely")


if __name__ == "__main__":
    exam()
    gamma_poisson()
