"""Pyro's NUTS for the latents of given observations with a fixed generative model, and diagnostics of the chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import NUTS
from torch import Tensor

from amortvi._util.checks import nonnegative_int, positive_int, probability
from amortvi._util.lazy import arviz, xarray
from amortvi._util.memory import Gathered
from amortvi._util.modes import evaluation_mode
from amortvi._util.progress import progress_bar
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import iter_batches
from amortvi.errors import NonFiniteError
from amortvi.posterior import Posterior

__all__ = ["NUTSOptions", "chain_diagnostics", "sample_chain", "sample_chains"]

_SITE = "latents"


@dataclass(frozen=True)
class NUTSOptions:
    """The options of `reference`; raises `OptionError` if one is out of range."""

    chains: int
    draws: int
    warmup: int
    together: int
    target_accept: float
    progress: bool | None

    def __post_init__(self) -> None:
        # Split r-hat needs two chains, and two draws in each half of a chain.
        positive_int("chains", self.chains, at_least=2)
        positive_int("draws", self.draws, at_least=4)
        nonnegative_int("warmup", self.warmup)
        positive_int("together", self.together)
        probability("target_accept", self.target_accept)


def sample_chains(posterior: Posterior, options: NUTSOptions, seed: int | None) -> tuple[Tensor, Tensor]:
    """Sample the latents of ``N`` observations, in chains that start at draws of their approximate posterior.

    Returns:
        Unconstrained latents, ``(chains, draws, N, D)``, and whether the trajectory of each draw diverged,
        ``(chains, draws, N)``.

    Raises:
        DataError: a value is outside the support of the model's likelihood.
        NonFiniteError: the log joint density is not finite at the start of a chain.
    """
    model, device = posterior.model, posterior.device
    gathered = Gathered(posterior.size, dim=2)
    theta = posterior.network.global_medians()
    with model.inference_mode(theta), evaluation_mode(posterior.network), _progress_bar(options, posterior.size) as bar:
        for group, batch in enumerate(iter_batches(posterior.observations, options.together, device)):
            model.check_data(batch)
            log_joint, q = partial(model.log_joint, batch), posterior.network(batch)
            chains = []
            for chain in range(options.chains):
                with random_state(derived_seed(seed, Stream.REFERENCE, group, chain), device):
                    chains.append(sample_chain(log_joint, q.sample(), options, bar.update))
            vector, diverging = (torch.stack(parts) for parts in zip(*chains, strict=True))
            gathered.add({"vector": vector, "diverging": diverging.unsqueeze(-1).expand(-1, -1, batch.size)})
    result = gathered.result()
    return result["vector"], result["diverging"]


def _progress_bar(options: NUTSOptions, observations: int | None) -> Any:
    steps = options.chains * (options.warmup + options.draws)
    total = None if observations is None else math.ceil(observations / options.together) * steps
    return progress_bar(options.progress, total=total, unit="draw", desc="NUTS")


def sample_chain(
    log_joint: Callable[[Tensor], Tensor], start: Tensor, options: NUTSOptions, advance: Callable[[], object]
) -> tuple[Tensor, Tensor]:
    """Sample the latents of ``B`` observations as one vector of ``B * D`` coordinates.

    The kernel runs without Pyro's `MCMC`, which would add a logger, a progress bar and, for several chains, processes that not
    every model can be sent to.

    Args:
        log_joint: the log joint density, ``(K, B, D)`` to ``(K, B)``.
        start: the start of the chain, ``(B, D)``.
        options: the number of draws and the adaptation.
        advance: called after each draw.

    Returns:
        The draws after warm-up, ``(draws, B, D)``, on the CPU, and whether the trajectory of each diverged, ``(draws,)``.

    Raises:
        NonFiniteError: the log joint density at the start is not finite.
    """

    def potential(point: dict[str, Tensor]) -> Tensor:
        return -log_joint(point[_SITE].reshape(1, *start.shape)).sum()

    if not bool(torch.isfinite(log_joint(start.unsqueeze(0))).all()):
        raise NonFiniteError(
            "the log joint density is not finite at a draw of the approximate posterior, from which a chain was to start: "
            "vi.evaluate(x) shows the observations concerned."
        )
    kernel = NUTS(potential_fn=potential, target_accept_prob=options.target_accept)
    kernel.initial_params = {_SITE: start.flatten()}
    kept = []
    with poutine.block(), torch.enable_grad():
        kernel.setup(options.warmup)
        point = kernel.initial_params
        for step in range(options.warmup + options.draws):
            point = kernel.sample(point)
            if step >= options.warmup:
                kept.append(point[_SITE].detach().cpu())
            advance()
    diverging = torch.zeros(options.draws, dtype=torch.bool)
    diverging[kernel.diagnostics()["divergences"]] = True
    return torch.stack(kept).unflatten(-1, start.shape), diverging


def chain_diagnostics(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest r-hat and the smallest effective sample size of the coordinates of ``(chains, draws, N, D)``.

    Returns:
        Rank-normalized split r-hat, ``(N,)``, NaN if a coordinate does not vary; and the smaller of bulk and tail effective
        sample size, ``(N,)`` (Vehtari, Gelman, Simpson, Carpenter and Bürkner, 2021).
    """
    dims = ("chain", "draw", "observation", "coordinate")
    data = xarray.Dataset({"vector": (dims, vector.double().numpy())})
    with np.errstate(all="ignore"):
        r_hat = arviz.rhat(data)["vector"].to_numpy()
        ess = np.minimum(*(arviz.ess(data, method=method)["vector"].to_numpy() for method in ("bulk", "tail")))
    return torch.from_numpy(r_hat.max(-1)), torch.from_numpy(ess.min(-1))
