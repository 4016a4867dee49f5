"""A linear state-space model: the banded family against the Kalman smoother.

Each observation is a series of T noisy measurements of a hidden state that follows an autoregression. The exact posterior of the
states is a Gaussian chain, whose precision matrix is tridiagonal: the family 'banded' contains it, at a cost linear in T, while
'diagonal' ignores the correlations of neighboring states.

    python examples/state_space.py [--length 200] [--series 500] [--seed 0]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

import amortvi as avi

PERSISTENCE, INNOVATION, NOISE = 0.95, 0.3, 0.5


class Autoregression(TorchDistribution):
    """A stationary autoregression ``z_t = a z_{t-1} + s e_t`` of a given length.

    Pyro's distributions of state-space models integrate the states out; here they are the latents.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, length: int, batch_shape: Sequence[int] = ()) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size([length]), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> Autoregression:
        """Return the same distribution with batch shape ``batch_shape``."""
        return Autoregression(self.event_shape[0], batch_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw series, ``(*sample_shape, *batch_shape, T)``."""
        noise = INNOVATION * torch.randn(self._extended_shape(torch.Size(sample_shape)))
        states = [noise[..., 0] / (1 - PERSISTENCE**2) ** 0.5]
        for step in range(1, self.event_shape[0]):
            states.append(PERSISTENCE * states[-1] + noise[..., step])
        return torch.stack(states, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of series, ``(*batch_shape, T)``."""
        first = dist.Normal(0.0, INNOVATION / (1 - PERSISTENCE**2) ** 0.5).log_prob(value[..., 0])
        return first + dist.Normal(PERSISTENCE * value[..., :-1], INNOVATION).log_prob(value[..., 1:]).sum(-1)


def model(x: Tensor) -> None:
    """Noisy measurements of the states, ``(N, T)``."""
    with pyro.plate("series", x.shape[0]):
        z = pyro.sample("z", Autoregression(x.shape[1]))
        pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)


def kalman_smoother(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log evidence, ``(N,)``, means, ``(N, T)``, and standard deviations, ``(T,)``, of the states, in double precision."""
    x = x.double()
    mean, variance = torch.zeros(len(x), dtype=torch.float64), INNOVATION**2 / (1 - PERSISTENCE**2)
    evidence, filtered, predicted = torch.zeros(len(x), dtype=torch.float64), [], []
    for value in x.unbind(1):
        predicted.append((mean, variance))
        evidence += dist.Normal(mean, (variance + NOISE**2) ** 0.5).log_prob(value)
        gain = variance / (variance + NOISE**2)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
        filtered.append((mean, variance))
        mean, variance = PERSISTENCE * mean, PERSISTENCE**2 * variance + INNOVATION**2
    smoothed = [filtered[-1]]
    for (mean, variance), (next_mean, next_variance) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
        gain = variance * PERSISTENCE / next_variance
        later_mean, later_variance = smoothed[-1]
        smoothed.append((mean + gain * (later_mean - next_mean), variance + gain**2 * (later_variance - next_variance)))
    means, variances = zip(*reversed(smoothed), strict=True)
    return evidence, torch.stack(means, dim=1), torch.tensor(variances, dtype=torch.float64).sqrt()


def main() -> None:
    """Fit both families and compare them with the exact answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--series", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    x = dist.Normal(Autoregression(options.length).sample((options.series + 100,)), NOISE).sample()
    train, held_out = x[:-100], x[-100:]
    evidence, mean, std = kalman_smoother(held_out)
    print(f"exact log evidence of held-out series: {evidence.mean() / options.length:.4f} nats per step")

    for family in ("diagonal", "banded"):
        torch.manual_seed(options.seed)
        encoder = avi.encoders.MLP(options.length, [])
        vi = avi.AmortizedVI(model, encoder, family, freeze_model=True).fit(train, seed=options.seed, progress=False)
        elbo = vi.evaluate(held_out, seed=options.seed)["elbo"].mean()
        posterior = vi.posterior(held_out)
        error = ((posterior.mean["z"].double() - mean) / std).square().mean().sqrt()
        width = (posterior.std["z"].double() / std).mean()
        print(
            f"{family}: {(evidence.mean() - elbo) / options.length:.4f} nats per step below it; means off by {error:.2f} of the "
            f"exact sd, widths {width:.2f} times the exact ones ({vi.status}, {len(vi.history)} epochs)"
        )


if __name__ == "__main__":
    main()
