"""The evidence of each observation by annealed importance sampling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.lazy import pandas as pd
from amortvi._util.progress import progress_bar
from amortvi._util.random import random_state
from amortvi.data import Chunk
from amortvi.diagnostics.annealing.chains import AnnealingOptions, StartChoice, run_chains, tune
from amortvi.diagnostics.annealing.path import PosteriorStart, PriorStart, Start
from amortvi.errors import AmortviWarning, DataError
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior

__all__ = ["AnnealedEvidence", "anneal", "annealed_evidence"]

_CPU_REDUCTION = 8
"""The factor by which chunks are smaller on a CPU. The model runs thousands of times on each chunk, which takes a third less
time if intermediate results stay in the cache."""


@dataclass(frozen=True, repr=False)
class AnnealedEvidence:
    """Estimates of the evidence of ``N`` observations from annealed chains.

    Args:
        log_weight: the log weight of each chain in nats, ``(K, N)``, in double precision. The mean weight is an unbiased estimate
            of ``p(x)``, or of ``1 / p(x)`` if the chains went backward.
        acceptance: the mean acceptance probability of the moves, ``(N,)``.
        temperatures: the number of steps from the start density to the joint density.
        start: the start density, ``"posterior"`` or ``"prior"``.
        is_upper_bound: whether the chains went backward from a draw from the exact posterior.
        index: the user's labels of the observations, if any.
    """

    log_weight: Tensor
    acceptance: Tensor
    temperatures: int
    start: StartChoice
    is_upper_bound: bool
    index: Any | None

    @property
    def log_evidence(self) -> Tensor:
        """The estimate of ``log p(x)`` in nats, ``(N,)``: too low on average, or too high if `is_upper_bound`."""
        log_mean = torch.logsumexp(self.log_weight, dim=0) - math.log(len(self.log_weight))
        return -log_mean if self.is_upper_bound else log_mean

    @property
    def standard_error(self) -> Tensor:
        """The Monte Carlo standard error of `log_evidence` in nats, ``(N,)``, from the variation between chains (delta method).

        It is too small if a few chains have most of the weight (see `ess`), and for an upper bound, since all chains of an
        observation then start from the same draw.
        """
        chains = len(self.log_weight)
        share = torch.softmax(self.log_weight, dim=0)
        return ((share - 1 / chains).square().sum(0) * chains / (chains - 1)).sqrt()

    @property
    def ess(self) -> Tensor:
        """The effective number of chains, ``(N,)``: from 1, if one has all the weight, to ``K``, if all have equal weights."""
        return 1 / torch.softmax(self.log_weight, dim=0).square().sum(0)

    def __repr__(self) -> str:
        chains, observations = self.log_weight.shape
        kind = "upper bound of log p(x)" if self.is_upper_bound else "log p(x)"
        return (
            f"AnnealedEvidence({observations} observation{'s' * (observations != 1)}, {chains} chains, {self.temperatures} "
            f"temperatures from the {self.start}: mean {kind} {float(self.log_evidence.mean()):.2f} nats)"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per observation: ``log_evidence``, ``standard_error`` (nats), ``ess``, ``acceptance``."""
        names = ("log_evidence", "standard_error", "ess", "acceptance")
        return pd.DataFrame({name: getattr(self, name).numpy() for name in names}, index=self.index)


def annealed_evidence(
    vi: AmortizedVI,
    x: Any = None,
    *,
    posterior: Posterior | None = None,
    exact_draws: Mapping[str, Tensor] | None = None,
    temperatures: int = 500,
    chains: int = 16,
    start: StartChoice = "posterior",
    leapfrog_steps: int = 5,
    seed: int | None = None,
    progress: bool | None = None,
) -> AnnealedEvidence:
    r"""Estimate ``log p(x)`` of each observation by annealed importance sampling.

    Chains go from draws of a start density to the joint density of model and data, along the geometric path between them. At
    each temperature they make one move of Hamiltonian Monte Carlo and update their weight (Neal, 2001; for decoders Wu, Burda,
    Salakhutdinov and Grosse, 2017). The mean weight is an unbiased estimate of ``p(x)`` for any start and moves; its logarithm
    is too low on average, by less with more temperatures. The estimate therefore depends less on the posterior family than
    that of importance sampling.

    With ``exact_draws``, the chains go backward from exact posterior draws to the start density. The mean weight is then an
    unbiased estimate of ``1 / p(x)``, so the estimate of ``log p(x)`` is too high on average (bidirectional Monte Carlo;
    Grosse, Ghahramani and Adams, 2015). Such draws are known for simulated observations: the latents that generated them.

    Temperatures are sigmoidally spaced. The step sizes for each observation and temperature are tuned in a pilot run with its
    own chains and then fixed, which keeps the estimate unbiased.

    Args:
        vi: a fitted estimator.
        x: ``N`` observations, as for `AmortizedVI.fit`.
        posterior: the posterior of ``x`` to start from; by default that of the encoder.
        exact_draws: the latents of each site from which the observations were simulated, ``(N, *nested, *event)``. With any
            other latents, the result is not a bound.
        temperatures: the number of steps between start density and joint density; with one, this is plain importance sampling.
        chains: ``K``, the number of chains for each observation, at least 2.
        start: the start density: ``"posterior"``, the approximate posterior, which is usually close to the exact one; or
            ``"prior"``, the model's distribution of the latents, which does not depend on the encoder.
        leapfrog_steps: the number of leapfrog steps per move, each with a gradient of the model.
        seed: reproduces the result and leaves the caller's random state untouched.
        progress: whether to show a progress bar; by default in notebooks and if standard error is a terminal.

    Returns:
        The log weights of all chains, with estimates and standard errors. Terms outside the data plate are not included.

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations cannot be used, or ``posterior`` or ``exact_draws`` do not match them.
        OptionError: an option is out of range, or ``posterior`` belongs to another estimator.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), scale=0.5)
        >>> x = model.simulate(50, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), freeze_model=True)
        >>> vi = vi.fit(x, epochs=50, lr=0.05, progress=False, seed=0)
        >>> found = annealed_evidence(vi, x, temperatures=50, leapfrog_steps=2, seed=0, progress=False)
        >>> bool((found.log_evidence - model.log_evidence(x)).abs().mean() < 0.1)
        True
    """
    options = AnnealingOptions(temperatures, chains, start, leapfrog_steps, progress)
    posterior = vi.resolve_posterior(x, posterior)
    exact = None if exact_draws is None else _exact_vector(posterior, exact_draws, vi.dtype)
    with random_state(seed, vi.device):
        return anneal(posterior, options, exact)


def anneal(posterior: Posterior, options: AnnealingOptions, exact: Tensor | None = None) -> AnnealedEvidence:
    """Run annealed chains for each observation, in chunks of bounded memory.

    The chains go backward if ``exact`` is given: one unconstrained draw from each exact posterior, ``(N, D)``.
    """
    total = None if posterior.size is None else posterior.size * options.chains * options.temperatures
    shown = "annealing: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    bar = progress_bar(options.progress, total=total, bar_format=shown)

    def compute(chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
        model, batch = posterior.model, chunk.batch
        density: Start = PriorStart(model, batch) if options.start == "prior" else PosteriorStart(model, batch, q)
        tuning = tune(density, q, options, chunk.draws_at_once)
        ends = None if exact is None else exact[chunk.rows.start : chunk.rows.stop].to(posterior.device)
        runs = []
        for span in chunk.draw_spans():
            count = len(span)
            vector = density.sample(count) if ends is None else ends.expand(count, *ends.shape)
            advance = partial(bar.update, count * batch.size)
            runs.append(run_chains(density, vector, tuning, options, advance, backward=ends is not None))
        return {name: torch.cat([run[name] for run in runs]) for name in runs[0]}

    def probe(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        # Probing with several draws in place of one makes chunks smaller by that factor.
        draws = _CPU_REDUCTION if posterior.device.type == "cpu" else 1
        return posterior.probe_weights(replace(chunk, draws=draws, draws_at_once=draws), q)

    with bar:
        found = posterior.map_chunks(compute, draws=options.chains, observation_dim=1, probe=probe, check_data=True)
    weights, acceptance, backward = found["log_weight"], found["acceptance"].mean(0), exact is not None
    result = AnnealedEvidence(weights, acceptance, options.temperatures, options.start, backward, posterior.index)
    _warn_of_nonfinite(result)
    return result


def _exact_vector(posterior: Posterior, draws: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Return exact posterior draws, one per observation, as unconstrained vectors, ``(N, D)``."""
    # Draws of a posterior may hold deterministic sites too.
    if isinstance(draws, Mapping):
        draws = {name: value for name, value in draws.items() if name in posterior.latents.names}
    try:
        leading = posterior.latents.leading_shape(draws)
        placed = {name: value.to(posterior.device, dtype) for name, value in draws.items()}
        vector, _ = posterior.latents.unconstrain(placed)
    except DataError as error:
        raise DataError(f"exact_draws cannot be used: {error}") from error
    if leading != (len(posterior),):
        raise DataError(
            f"exact_draws must have one draw for each of the {len(posterior)} observations; got leading dimensions "
            f"{tuple(leading)}."
        )
    return vector


def _warn_of_nonfinite(found: AnnealedEvidence) -> None:
    bad = int((~torch.isfinite(found.log_evidence)).sum())
    if bad:
        warnings.warn(
            f"the annealed evidence of {bad} of {len(found.acceptance)} observations is not finite, because a log-probability of "
            f"the model is infinite or NaN where the chains went; to_frame() lists the observations.",
            AmortviWarning,
            stacklevel=4,
        )
