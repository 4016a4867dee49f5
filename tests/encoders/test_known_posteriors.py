"""Sets of measurements of one quantity: a single fit gives the posterior of sets of every size."""

from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.encoders import DeepSets, Recurrent, SetAttention
from examples.measurement_sets import SCALE, SMALLEST, log_evidence, model, simulate

LARGEST = 20
"""Fewer than in the example: sets of similar sizes are learned in fewer epochs."""


def simulated(sizes: Tensor, seed: int) -> avi.Padded:
    x, mask = simulate(sizes, torch.Generator().manual_seed(seed))
    return avi.Padded(x[:, :LARGEST], mask[:, :LARGEST])


def test_the_evidence_is_that_of_torch() -> None:
    x, mask = simulated(torch.tensor([7]), 0)
    covariance = SCALE**2 * torch.eye(7) + 1
    expected = torch.distributions.MultivariateNormal(torch.zeros(7), covariance).log_prob(x[0, :7])
    torch.testing.assert_close(log_evidence(x, mask)[0], expected, rtol=1e-5, atol=0)


ENCODERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mean": (lambda: DeepSets(1, [32], after_pooling=[32]), 60),
    "sum": (lambda: DeepSets(1, [32], "sum", after_pooling=[32]), 60),
    "attention": (lambda: SetAttention(1, [32], after_pooling=[32]), 60),
    "a sequence": (lambda: Recurrent(1, [16], bidirectional=False), 40),
}


@pytest.mark.parametrize(
    "name", ["mean", *(pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS if name != "mean")]
)
def test_the_gap_is_small_at_every_size(name: str) -> None:
    make, epochs = ENCODERS[name]
    sizes = torch.randint(SMALLEST, LARGEST + 1, (2000,), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(model, make())
    vi.fit(simulated(sizes, 0), epochs=epochs, seed=0, progress=False)
    widths = []
    for size in (SMALLEST, 8, LARGEST):
        x = simulated(torch.full((300,), size), size)
        # The log weights of an almost exact posterior hardly vary: a gap of 0.05 has a standard deviation of 0.3 per draw, and
        # a standard error of 0.3 / sqrt(300 * 50) = 0.003.
        bounds = vi.evaluate(x, particles=50, seed=0)["elbo"]
        assert -0.01 < float(log_evidence(*x).mean()) - bounds.mean() < 0.05
        widths.append(float(vi.posterior(x).std["mu"].mean()))
        assert widths[-1] == pytest.approx((1 + size / SCALE**2) ** -0.5, rel=0.1)
    assert widths == sorted(widths, reverse=True)


def each_step(x: Tensor, mask: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).mask(mask).to_event(1), obs=x)


def test_latents_at_each_step() -> None:
    """Each has a posterior of its own: N(x / 2, 1 / 2) where it was observed, and otherwise its prior."""

    def simulated_steps(rows: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(rows, 4, generator=generator) < 0.7
        mask[:, 0] |= ~mask.any(1)  # sequences without any step are so rare that learning them takes long
        return (2**0.5 * torch.randn(rows, 4, generator=generator)).masked_fill(~mask, 0.0), mask

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(each_step, Recurrent(1, [16], per_step=True))
    vi.fit(simulated_steps(2000, 0), epochs=60, seed=0, progress=False)
    x, mask = simulated_steps(500, 1)
    q = vi.posterior((x, mask))
    variance = torch.where(mask, 0.5, 1.0)
    squared = (q.mean["z"] - x / 2).square()
    kl = 0.5 * ((squared + q.std["z"].square()) / variance - 1) - (q.std["z"] / variance.sqrt()).log()
    # A posterior that ignores the data loses 0.2 nats per step.
    assert kl.mean() < 0.005
