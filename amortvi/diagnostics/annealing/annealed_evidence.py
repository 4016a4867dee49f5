"""The evidence of each observation by annealed importance sampling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.diagnostics.annealing.annealer import annealed
from amortvi.diagnostics.annealing.options import Annealing, StartChoice
from amortvi.errors import AmortviWarning, DataError
from amortvi.inference import AmortizedVI

__all__ = ["AnnealedEvidence", "annealed_evidence", "evidence_of", "reverse_annealed_evidence"]


@dataclass(frozen=True, repr=False)
class AnnealedEvidence:
    """What annealed chains say of the evidence of ``N`` observations.

    Args:
        log_weight: the log weight of each chain in nats, ``(K, N)``, in double precision. The mean weight is an unbiased estimate
            of ``p(x)``, or of ``1 / p(x)`` where the chains went backwards.
        acceptance: the mean probability of a move to be accepted, ``(N,)``.
        temperatures: steps from the start to the joint density.
        start: what the path starts from, ``"posterior"`` or ``"prior"``.
        is_upper_bound: whether the chains went backwards from a draw of the exact posterior.
        index: the user's labels of the observations, where there are any.
    """

    log_weight: Tensor
    acceptance: Tensor
    temperatures: int
    start: StartChoice
    is_upper_bound: bool
    index: Any | None

    @property
    def log_evidence(self) -> Tensor:
        """The estimate of ``log p(x)`` in nats, ``(N,)``: below it on average, or above it from chains that went backwards."""
        log_mean = torch.logsumexp(self.log_weight, dim=0) - math.log(len(self.log_weight))
        return -log_mean if self.is_upper_bound else log_mean

    @property
    def standard_error(self) -> Tensor:
        """The Monte Carlo standard error of `log_evidence` in nats, ``(N,)``, from what the chains differ by (delta method).

        It is too small where few chains carry most of the weight (see `ess`), and from chains that went backwards, since
        those of an observation begin at one point.
        """
        chains = len(self.log_weight)
        share = torch.softmax(self.log_weight, dim=0)
        return ((share - 1 / chains).square().sum(0) * chains / (chains - 1)).sqrt()

    @property
    def ess(self) -> Tensor:
        """The effective number of chains, ``(N,)``: from 1, where one has all the weight, to ``K``, where all have the same."""
        return 1 / torch.softmax(self.log_weight, dim=0).square().sum(0)

    def __repr__(self) -> str:
        chains, observations = self.log_weight.shape
        kind = "upper bound of log p(x)" if self.is_upper_bound else "log p(x)"
        return (
            f"AnnealedEvidence({observations} observation{'s' * (observations != 1)}, {chains} chains, {self.temperatures} "
            f"temperatures from the {self.start}: mean {kind} {float(self.log_evidence.mean()):.2f} nats)"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a row an observation: ``log_evidence``, ``standard_error`` (nats), ``ess``, ``acceptance``."""
        names = ("log_evidence", "standard_error", "ess", "acceptance")
        return pd.DataFrame({name: getattr(self, name).numpy() for name in names}, index=self.index)


def annealed_evidence(
    vi: AmortizedVI,
    x: Any,
    *,
    temperatures: int = 500,
    chains: int = 16,
    start: StartChoice = "posterior",
    leapfrog_steps: int = 5,
    seed: int | None = None,
    progress: bool = True,
) -> AnnealedEvidence:
    r"""Estimate ``log p(x)`` of each observation by annealed importance sampling.

    Chains go from draws of a start density to the joint density of model and data along the geometric path between them, with a
    move of Hamiltonian Monte Carlo at each temperature, and collect a weight on the way (Neal, 2001; for decoders Wu, Burda,
    Salakhutdinov and Grosse, 2017). The mean weight is an unbiased estimate of ``p(x)`` however poor the start and the moves;
    its logarithm is too low on average, by less with more temperatures. So the estimate does not rest on the family of the
    posterior as importance sampling does.

    Temperatures are sigmoidally spaced. Step sizes, for each observation and temperature, come from a pilot run with chains of
    its own, and are held fixed in the run that is weighted, which keeps it unbiased. All observations and chains are moved at
    once, in chunks of bounded memory.

    Args:
        vi: a fitted estimator.
        x: ``N`` observations, as for `AmortizedVI.fit`, or a `Posterior`, of any family, to start from.
        temperatures: steps from the start to the joint density. With one there is no move: plain importance sampling.
        chains: ``K``, independent runs of each observation, at least 2.
        start: ``"posterior"``, the approximate one, which is usually close; or ``"prior"``, the model's own distribution of the
            latents, which does not know of the encoder.
        leapfrog_steps: how many steps, each with a gradient of the model, a move takes.
        seed: reproduces the result and leaves the caller's random state as it was.
        progress: show a progress bar.

    Returns:
        The log weights of all chains, and what follows from them. Terms outside the data plate are not counted.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used.
        OptionError: an option is out of range.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), scale=0.5)
        >>> x = model.simulate(100, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), freeze_model=True)
        >>> vi = vi.fit(x, epochs=100, lr=0.05, progress=False, seed=0)
        >>> found = annealed_evidence(vi, x, temperatures=50, seed=0, progress=False)
        >>> bool((found.log_evidence - model.log_evidence(x)).abs().mean() < 0.1)
        True
    """
    options = Annealing(temperatures, chains, leapfrog_steps, start, progress)
    posterior = vi.posterior(x)
    with random_state(seed, vi.device):
        found = annealed(vi.generative, posterior, options)
    return evidence_of(found, options, posterior.index)


def reverse_annealed_evidence(
    vi: AmortizedVI,
    x: Any,
    latents: Mapping[str, Tensor],
    *,
    temperatures: int = 500,
    chains: int = 16,
    start: StartChoice = "posterior",
    leapfrog_steps: int = 5,
    seed: int | None = None,
    progress: bool = True,
) -> AnnealedEvidence:
    """Bound ``log p(x)`` of simulated observations from above, by chains that go backwards from the latents that made them.

    A latent that an observation was simulated from is a draw of its exact posterior. Chains that start there and go back to the
    start density have weights whose mean is an unbiased estimate of ``1 / p(x)``; so what they say of ``log p(x)`` is too high
    on average (bidirectional Monte Carlo; Grosse, Ghahramani and Adams, 2015).

    Args:
        vi: a fitted estimator.
        x: ``N`` observations that were simulated from its model, as for `AmortizedVI.fit`.
        latents: what they were simulated from, for each latent site ``(N, *nested, *event)``. Of other latents nothing is true
            that is said here.
        temperatures: steps between the start and the joint density.
        chains: ``K``, runs of each observation, at least 2. They begin at one point, so they are not independent.
        start: where the path starts, ``"posterior"`` or ``"prior"``.
        leapfrog_steps: how many steps, each with a gradient of the model, a move takes.
        seed: reproduces the result and leaves the caller's random state as it was.
        progress: show a progress bar.

    Returns:
        The log weights of all chains, and what follows from them.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used, or the latents do not fit them.
        OptionError: an option is out of range.
    """
    options = Annealing(temperatures, chains, leapfrog_steps, start, progress)
    posterior = vi.posterior(x)
    exact, _ = posterior.latents.unconstrain(latents)
    if exact.shape[:-1] != (len(posterior),):
        raise DataError(
            f"latents must hold one draw of each of the {len(posterior)} observations; got leading dimensions "
            f"{tuple(exact.shape[:-1])}."
        )
    with random_state(seed, vi.device):
        found = annealed(vi.generative, posterior, options, exact.to(vi.dtype))
    return evidence_of(found, options, posterior.index, is_upper_bound=True)


def evidence_of(
    found: Mapping[str, Tensor], options: Annealing, index: Any | None = None, *, is_upper_bound: bool = False
) -> AnnealedEvidence:
    """Return the result of what `annealed` found.

    Args:
        found: log weights and acceptance probabilities of all chains.
        options: of the runs.
        index: the user's labels of the observations.
        is_upper_bound: whether the chains went backwards.
    """
    result = AnnealedEvidence(
        found["log_weight"], found["acceptance"].mean(0), options.temperatures, options.start, is_upper_bound, index
    )
    bad = int((~torch.isfinite(result.log_evidence)).sum())
    if bad:
        warnings.warn(
            f"the annealed evidence of {bad} of {len(result.acceptance)} observations is not finite: the model's log-probability "
            f"is infinite or NaN where the chains went. See where to_frame() has no finite log_evidence.",
            AmortviWarning,
            stacklevel=3,
        )
    return result
