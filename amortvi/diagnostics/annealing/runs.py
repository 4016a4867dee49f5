r"""Annealed runs: the log weights of chains that go along the path, forwards or backwards.

Forwards (Neal, 2001) the chains start from draws of :math:`f_0`; with :math:`z_{t-1}` the point that the move at
:math:`\beta_{t-1}` left,

.. math::

    \log w = \sum_{t=1}^{T} \log \frac{f_{\beta_t}(z_{t-1})}{f_{\beta_{t-1}}(z_{t-1})}
           = \sum_{t=1}^{T} (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{f_0(z_{t-1})},
    \qquad E[w] = p(x).

Backwards (Grosse, Ghahramani and Adams, 2015) they start from a draw of the exact posterior and the temperatures are gone through
from the end: then :math:`E[w] = 1 / p(x)`. Both hold whatever the step sizes, as long as those do not depend on the chains
themselves; so they are found in a pilot run with chains of its own, and then held.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.chunks import spans
from amortvi.diagnostics.annealing.path import evaluated, move
from amortvi.diagnostics.annealing.starts import Start

__all__ = ["Run", "Tuning", "anneal", "tune"]

_TARGET = 0.65
"""The acceptance probability to aim at: what is best for Hamiltonian moves in many dimensions (Beskos et al., 2013)."""

_PILOT_CHAINS = 4
_PILOT_MOVES = 150
"""Moves that pilot runs take at least, however few the temperatures: from a rough first step size it takes some tens."""
_GAIN = 0.1
"""By how much of what the acceptance probability is off the logarithm of a step size changes at a move; so it follows what
changes along the path over some tens of moves."""
_FIRST_MOVES = 10
"""Moves over which the gain falls to `_GAIN`: the first step size is a guess."""
_SMOOTHED_PART = 25
"""A step size is averaged over this part of all temperatures on either side: those of a pilot run are noisy."""
_SPREAD_DRAWS = 32
"""Draws that a variance is estimated from; it only sets a unit of length."""


@dataclass(frozen=True)
class Tuning:
    """What the moves of each observation are made with, found beforehand and held fixed.

    Args:
        start_variance: of each coordinate under ``f_0``, ``(B, D)``.
        end_variance: a guess of that under the exact posterior, ``(B, D)``.
        steps: the step size at each inverse temperature, ``(T + 1, B)``; the ends are not used.
    """

    start_variance: Tensor
    end_variance: Tensor
    steps: Tensor

    def scale(self, beta: float) -> Tensor:
        """Return the unit of length of each coordinate at ``beta``, ``(B, D)``: exact where all is Gaussian."""
        return ((1 - beta) / self.start_variance + beta / self.end_variance).rsqrt()


@dataclass(frozen=True)
class Run:
    """What came of some chains.

    Args:
        log_weight: ``(K, B)``, on the CPU in double precision.
        acceptance: the mean probability of a move to be accepted, ``(K, B)``, likewise; one without moves.
    """

    log_weight: Tensor
    acceptance: Tensor


def anneal(
    start: Start,
    vector: Tensor,
    betas: Tensor,
    tuning: Tuning,
    leapfrog_steps: int,
    advance: Callable[[], object],
    *,
    backwards: bool = False,
) -> Run:
    """Take chains along the path.

    Args:
        start: the beginning of the path.
        vector: where the chains begin, ``(K, B, D)``: draws of ``f_0``, or of the exact posterior.
        betas: inverse temperatures from 0 to 1, ``(T + 1,)``.
        tuning: of the moves.
        leapfrog_steps: how many steps a proposal takes.
        advance: called after each of ``T`` temperatures.
        backwards: go from the joint density to the start.
    """
    schedule = betas.tolist()
    order = range(len(schedule))[:: -1 if backwards else 1]
    point = evaluated(start, vector)
    # In double precision, on the CPU since not every accelerator has it: it is a sum of many small terms.
    log_weight = torch.zeros(point.log_joint.shape, dtype=torch.float64)
    accepted = torch.zeros_like(point.log_joint)
    for here, there in pairwise(order):
        log_weight += (schedule[there] - schedule[here]) * point.log_ratio.cpu().double()
        if there != order[-1]:
            beta = schedule[there]
            point, acceptance = move(start, point, beta, tuning.steps[there], tuning.scale(beta), leapfrog_steps)
            accepted += acceptance
        advance()
    moves = len(schedule) - 2
    acceptance = accepted / moves if moves else torch.ones_like(accepted)
    return Run(log_weight, acceptance.cpu().double())


def tune(start: Start, q: Distribution, betas: Tensor, leapfrog_steps: int, at_once: int) -> Tuning:
    """Find step sizes in pilot runs, whose chains serve nothing else.

    Args:
        start: the beginning of the path.
        q: the approximate posterior, whose spread is near that of the end.
        betas: inverse temperatures from 0 to 1, ``(T + 1,)``.
        leapfrog_steps: how many steps a proposal takes.
        at_once: the most draws of each observation that are held at once.
    """
    draws = torch.cat([start.sample(len(span)) for span in spans(_SPREAD_DRAWS, at_once)])
    end = q.sample(torch.Size([_SPREAD_DRAWS]))
    schedule = betas.tolist()
    # The step that an acceptance asks for falls as D ** -1/4; a unit of length is a standard deviation.
    log_steps = draws.new_full((len(schedule), draws.shape[1]), -0.25 * math.log(draws.shape[2]))
    tuning = Tuning(draws.var(0), end.var(0), log_steps)
    moves = itertools.count()
    for _ in range(math.ceil(_PILOT_MOVES / len(schedule))):
        point = evaluated(start, start.sample(min(_PILOT_CHAINS, at_once)))
        shift = torch.zeros_like(log_steps[0])  # of this temperature and those to come
        for position, beta in enumerate(schedule[1:-1], start=1):
            step = (log_steps[position] + shift).exp()
            point, acceptance = move(start, point, beta, step, tuning.scale(beta), leapfrog_steps)
            shift = shift + max(_GAIN, 1 - next(moves) / _FIRST_MOVES) * (acceptance.mean(0) - _TARGET)
            log_steps[position] += shift
    return replace(tuning, steps=_smoothed(log_steps).exp())


def _smoothed(values: Tensor) -> Tensor:
    """Average ``(T + 1, B)`` over neighbouring temperatures, the ends left out and repeated."""
    beside = len(values) // _SMOOTHED_PART
    inner = values[1:-1].mT.unsqueeze(0)
    if not inner.numel():
        return values
    padded = F.pad(inner, (beside + 1, beside + 1), mode="replicate")
    return F.avg_pool1d(padded, 2 * beside + 1, stride=1).squeeze(0).mT
