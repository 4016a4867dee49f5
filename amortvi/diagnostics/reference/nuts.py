"""Pyro's NUTS for the latents of some observations, with the generative model as it is, and how well its chains mixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from amortvi.model.data_check import check_data
from amortvi.model.scoring import LogJoint
from pyro import poutine
from pyro.infer import NUTS
from torch import Tensor
from tqdm.auto import tqdm

from amortvi._util.checks import nonnegative_int, positive_float, positive_int
from amortvi._util.chunks import Gathered
from amortvi._util.lazy import arviz, xarray
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data.chunks import pieces
from amortvi.errors import NonFiniteError, OptionError
from amortvi.model.program import GenerativeModel
from amortvi.posterior.importance_sampling import weighing
from amortvi.posterior.posterior import Posterior

__all__ = ["Chain", "Sampling", "mixing", "sample_all", "sample_chain"]

_NAME = "latents"


@dataclass(frozen=True)
class Sampling:
    """How chains are sampled.

    Args:
        chains: of each observation.
        draws: to keep of each chain.
        warmup: draws before these.
        together: how many observations are sampled as one vector.
        target_accept: the acceptance probability that the step size is adapted to.
        progress: whether a bar is shown.

    Raises:
        OptionError: one of them is out of range.
    """

    chains: int
    draws: int
    warmup: int
    together: int
    target_accept: float
    progress: bool

    def __post_init__(self) -> None:
        for name, least in (("chains", 2), ("draws", 4), ("together", 1)):
            if positive_int(name, getattr(self, name)) < least:
                raise OptionError(f"{name} must be at least {least}, which r-hat needs; got {getattr(self, name)}.")
        nonnegative_int("warmup", self.warmup)
        if positive_float("target_accept", self.target_accept) >= 1:
            raise OptionError(f"target_accept must be a probability below 1; got {self.target_accept}.")


def sample_all(
    model: GenerativeModel, posterior: Posterior, options: Sampling, seed: int | None
) -> tuple[Tensor, Tensor]:
    """Sample the latents of all observations, each chain from a random state of its own where there is a seed.

    Args:
        model: the generative model; it runs in evaluation mode.
        posterior: of the observations, whose draws the chains start from.
        options: of the chains.
        seed: a seed, or ``None`` to go on with the caller's random state.

    Returns:
        Unconstrained latents, ``(chains, draws, N, D)``, and whether a draw's trajectory diverged, ``(chains, draws, N)``.

    Raises:
        DataError: a value is outside the support of the model's likelihood.
        NonFiniteError: the log joint density is not finite at a draw of the posterior.
    """
    gathered = Gathered(posterior.size, dim=2)
    with weighing(model), _bar(options, posterior.size) as bar:
        for group, batch in enumerate(pieces(posterior.observations, options.together, posterior.device)):
            check_data(model, batch)
            joint, q = LogJoint(model, posterior.prototype, batch), posterior.of(batch)
            found = []
            for chain in range(options.chains):
                with random_state(derived_seed(seed, Stream.REFERENCE, group, chain), posterior.device):
                    found.append(sample_chain(joint, q.sample(), options, bar.update))
            diverging = torch.stack([chain.diverging for chain in found]).unsqueeze(-1)
            gathered.add(
                {
                    "vector": torch.stack([chain.vector for chain in found]),
                    "diverging": diverging.expand(-1, -1, batch.size),
                }
            )
    result = gathered.result()
    return result["vector"], result["diverging"]


def _bar(options: Sampling, observations: int | None) -> Any:
    groups = None if observations is None else math.ceil(observations / options.together)
    total = None if groups is None else groups * options.chains * (options.warmup + options.draws)
    return tqdm(total=total, unit="draw", desc="NUTS", disable=not options.progress)


@dataclass(frozen=True)
class Chain:
    """One chain after its warm-up.

    Args:
        vector: unconstrained latents, ``(draws, B, D)``, on the CPU.
        diverging: whether the trajectory of a draw diverged, ``(draws,)``.
    """

    vector: Tensor
    diverging: Tensor


def sample_chain(joint: LogJoint, start: Tensor, options: Sampling, advance: Callable[[], object]) -> Chain:
    """Sample the latents of ``B`` observations as one vector of ``B * D`` numbers.

    The kernel is driven by its own methods. Pyro's `MCMC` around it would set up a logger and a progress bar, and with several
    chains processes, to which not every model can be sent.

    Args:
        joint: the log joint density.
        start: where the chain starts, ``(B, D)``.
        options: of the chain.
        advance: called after each draw.

    Raises:
        NonFiniteError: the log joint density at the start is not finite.
    """

    def potential(point: dict[str, Tensor]) -> Tensor:
        return -joint(point[_NAME].reshape(1, *start.shape)).sum()

    if not bool(torch.isfinite(joint(start.unsqueeze(0))).all()):
        raise NonFiniteError(
            "the log joint density is not finite at a draw of the approximate posterior, where a chain was to start: "
            "vi.evaluate(x) shows which observations are concerned."
        )
    kernel = NUTS(potential_fn=potential, target_accept_prob=options.target_accept)
    kernel.initial_params = {_NAME: start.flatten()}
    kept = []
    with poutine.block(), torch.enable_grad():
        kernel.setup(options.warmup)
        point = kernel.initial_params
        for number in range(options.warmup + options.draws):
            point = kernel.sample(point)
            if number >= options.warmup:
                kept.append(point[_NAME].detach().cpu())
            advance()
    diverging = torch.zeros(options.draws, dtype=torch.bool)
    diverging[kernel.diagnostics()["divergences"]] = True
    return Chain(torch.stack(kept).unflatten(-1, start.shape), diverging)


def mixing(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest r-hat and the smallest effective sample size among the numbers of each observation, ``(N,)``.

    Args:
        vector: unconstrained latents, ``(chains, draws, N, D)``.

    Returns:
        Rank-normalised split r-hat, NaN where chains did not move; and the effective number of draws for bulk or tails, whichever
        is smaller (Vehtari et al., 2021).
    """

    dims = ("chain", "draw", "observation", "number")
    data = xarray.Dataset({"vector": (dims, vector.double().numpy())})
    with np.errstate(all="ignore"):
        r_hat = arviz.rhat(data)["vector"].to_numpy()
        ess = np.minimum(*(arviz.ess(data, method=method)["vector"].to_numpy() for method in ("bulk", "tail")))
    return torch.from_numpy(r_hat.max(-1)), torch.from_numpy(ess.min(-1))
