r"""Chains of annealed importance sampling, forward or backward along the path, and their step sizes.

Forward (Neal, 2001), chains start from draws of :math:`f_0`. With :math:`z_{t-1}` the position after the move at
:math:`\beta_{t-1}`,

.. math::

    \log w = \sum_{t=1}^{T} \log \frac{f_{\beta_t}(z_{t-1})}{f_{\beta_{t-1}}(z_{t-1})}
           = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{f_0(z_{t-1})},
    \qquad E[w] = p(x).

Backward (Grosse, Ghahramani and Adams, 2015), they start from a draw from the exact posterior and go through the temperatures
in reverse order; then :math:`E[w] = 1 / p(x)`. Both hold for any step sizes that do not depend on the chains themselves. Step
sizes are therefore tuned in pilot runs with separate chains, and then fixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.memory import spans
from amortvi.diagnostics.annealing.path import Start, evaluate_point, hmc_move
from amortvi.errors import OptionError

__all__ = ["AnnealingOptions", "StartChoice", "Tuning", "run_chains", "tune"]

StartChoice: TypeAlias = Literal["posterior", "prior"]

_STEEPNESS = 4.0
"""The sigmoid is evaluated between minus and plus this value, as in Wu et al. (2017)."""


@dataclass(frozen=True)
class AnnealingOptions:
    """The options of annealed importance sampling, with ``T`` temperatures and ``K`` chains; see `amortvi.annealed_evidence`."""

    temperatures: int
    chains: int
    start: StartChoice
    leapfrog_steps: int
    progress: bool | None

    def __post_init__(self) -> None:
        for name, smallest in (("temperatures", 1), ("chains", 2), ("leapfrog_steps", 1)):
            object.__setattr__(self, name, positive_int(name, getattr(self, name), at_least=smallest))
        if self.start not in get_args(StartChoice):
            raise OptionError(f"start must be 'posterior' or 'prior'; got {self.start!r}.")

    def betas(self) -> list[float]:
        """Return ``T + 1`` inverse temperatures from 0 to 1, spaced more closely at both ends, where densities change most.

        Example:
            >>> options = AnnealingOptions(4, chains=2, start="prior", leapfrog_steps=1, progress=False)
            >>> [round(beta, 3) for beta in options.betas()]
            [0.0, 0.105, 0.5, 0.895, 1.0]
        """
        raw = torch.linspace(-_STEEPNESS, _STEEPNESS, self.temperatures + 1, dtype=torch.float64).sigmoid()
        return ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()


_TARGET_ACCEPTANCE = 0.65
"""The optimal acceptance probability of Hamiltonian Monte Carlo in high dimensions (Beskos et al., 2013)."""
_PILOT_CHAINS = 4
_PILOT_MOVES = 150
"""The fewest moves in all pilot runs together, since tuning a rough first step size takes some tens of moves."""
_GAIN = 0.1
"""The change of a log step size per move, relative to the deviation from the target acceptance. Step sizes thus adapt within
some tens of moves."""
_FIRST_MOVES = 10
"""The number of moves over which the gain decays to `_GAIN`, since the first step size is a guess."""
_SMOOTHED_FRACTION = 25
"""The number of temperatures divided by those on each side over which step sizes, which are noisy, are averaged."""
_VARIANCE_DRAWS = 32
"""The number of draws for estimating variances, which only set length scales."""


@dataclass(frozen=True)
class Tuning:
    """Length scales and step sizes of the moves for each observation.

    Args:
        start_variance: the variance of each coordinate under ``f_0``, ``(B, D)``.
        end_variance: an estimate of its variance under the exact posterior, ``(B, D)``.
        steps: the step size at each inverse temperature, ``(T + 1, B)``; the first and the last are not used.
    """

    start_variance: Tensor
    end_variance: Tensor
    steps: Tensor

    def scale(self, beta: float) -> Tensor:
        """Return the length scale of each coordinate at ``beta``, ``(B, D)``; exact if both densities are Gaussian."""
        return ((1 - beta) / self.start_variance + beta / self.end_variance).rsqrt()


def run_chains(
    start: Start,
    vector: Tensor,
    tuning: Tuning,
    options: AnnealingOptions,
    advance: Callable[[], object],
    *,
    backward: bool,
) -> dict[str, Tensor]:
    """Run chains from ``vector``, ``(K, B, D)``: draws from ``f_0`` or, backward, from the exact posterior.

    Returns:
        Each ``(K, B)``, on the CPU in double precision: ``log_weight``, and ``acceptance``, the mean acceptance probability of
        the moves (1 without moves). ``advance`` is called after each of the ``T`` temperatures.
    """
    betas = options.betas()
    order = range(len(betas))[:: -1 if backward else 1]
    point = evaluate_point(start, vector)
    # In double precision, because many small terms are added; on the CPU, because not every accelerator has it.
    log_weight = torch.zeros(point.log_joint.shape, dtype=torch.float64)
    accepted = torch.zeros_like(point.log_joint)
    for here, there in pairwise(order):
        beta = betas[there]
        log_weight += (beta - betas[here]) * point.log_ratio.cpu().double()
        if there != order[-1]:
            point, acceptance = hmc_move(
                start, point, beta, tuning.steps[there], tuning.scale(beta), options.leapfrog_steps
            )
            accepted += acceptance
        advance()
    moves = options.temperatures - 1
    acceptance = accepted / moves if moves else torch.ones_like(accepted)
    return {"log_weight": log_weight, "acceptance": acceptance.cpu().double()}


def tune(start: Start, q: Distribution, options: AnnealingOptions, draws_at_once: int) -> Tuning:
    """Tune the step sizes in pilot runs, whose chains are used for nothing else.

    The variance of the approximate posterior ``q`` stands for that of the exact one. At most ``draws_at_once`` draws per
    observation are made at once.
    """
    draws = torch.cat([start.sample(len(span)) for span in spans(_VARIANCE_DRAWS, draws_at_once)])
    end = q.sample(torch.Size([_VARIANCE_DRAWS]))
    betas = options.betas()
    # The optimal step decreases as D ** -1/4, in units of a standard deviation.
    log_steps = draws.new_full((len(betas), draws.shape[1]), -0.25 * math.log(draws.shape[2]))
    tuning = Tuning(draws.var(0), end.var(0), log_steps)
    moves = itertools.count()
    for _ in range(math.ceil(_PILOT_MOVES / len(betas))):
        point = evaluate_point(start, start.sample(min(_PILOT_CHAINS, draws_at_once)))
        shift = torch.zeros_like(log_steps[0])  # for this temperature and all that follow
        for position, beta in enumerate(betas[1:-1], start=1):
            step = (log_steps[position] + shift).exp()
            point, acceptance = hmc_move(start, point, beta, step, tuning.scale(beta), options.leapfrog_steps)
            gain = max(_GAIN, 1 - next(moves) / _FIRST_MOVES)
            shift = shift + gain * (acceptance.mean(0) - _TARGET_ACCEPTANCE)
            log_steps[position] += shift
    return replace(tuning, steps=_smoothed(log_steps).exp())


def _smoothed(values: Tensor) -> Tensor:
    """Average ``(T + 1, B)`` over neighboring temperatures; the first and the last are replaced by their neighbors."""
    radius = len(values) // _SMOOTHED_FRACTION
    inner = values[1:-1].mT.unsqueeze(0)
    if not inner.numel():
        return values
    padded = F.pad(inner, (radius + 1, radius + 1), mode="replicate")
    return F.avg_pool1d(padded, 2 * radius + 1, stride=1).squeeze(0).mT
