"""Annealed runs of many observations, a chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from tqdm.auto import tqdm

from amortvi._util.chunks import Gathered, Tile, spans
from amortvi.diagnostics.annealing.options import Annealing
from amortvi.diagnostics.annealing.runs import anneal, tune
from amortvi.diagnostics.annealing.schedule import sigmoidal
from amortvi.diagnostics.annealing.starts import FromPosterior, FromPrior, Start
from amortvi.model.data_check import check_data
from amortvi.model.program import GenerativeModel
from amortvi.model.scoring import LogJoint
from amortvi.posterior.importance_sampling import weighing, weighing_tile
from amortvi.posterior.posterior import Posterior

__all__ = ["annealed"]

_SMALLER = 8
"""How many times smaller than elsewhere a chunk is on a processor: the model is run on it thousands of times, which takes a third
less where the results stay in the cache."""


def annealed(
    model: GenerativeModel, posterior: Posterior, options: Annealing, exact: Tensor | None = None
) -> dict[str, Tensor]:
    """Anneal chains of each observation.

    Args:
        model: the generative model; it runs in evaluation mode.
        posterior: of the observations.
        options: of the runs.
        exact: a draw of the exact posterior of each observation, unconstrained, ``(N, D)``; with it all chains go backwards from
            there.

    Returns:
        Each ``(K, N)``, on the CPU in double precision: ``log_weight``, and the mean ``acceptance`` probability of the moves.

    Raises:
        DataError: a value is outside the support of the model's likelihood.
    """
    prototype, betas = posterior.prototype, sigmoidal(options.temperatures)
    with weighing(model):
        tile = weighing_tile(model, prototype, posterior.of, posterior.first(), options.chains)
        if posterior.device.type == "cpu":
            tile = Tile(max(1, tile.observations // _SMALLER), tile.draws)
        gathered, begin = Gathered(posterior.size, dim=1), 0
        with _bar(options, posterior.size, math.ceil(options.chains / tile.draws)) as bar:
            for batch, q in posterior.chunks(tile.numbers_per_observation):
                check_data(model, batch)
                start, advance = _start(options, LogJoint(model, prototype, batch), q), partial(bar.update, batch.size)
                end = None if exact is None else exact[begin : begin + batch.size].to(posterior.device)
                gathered.add(_chunk(start, q, end, betas, options, tile.draws, advance))
                begin += batch.size
    return gathered.result()


def _start(options: Annealing, joint: LogJoint, q: Distribution) -> Start:
    return FromPrior(joint) if options.start == "prior" else FromPosterior(joint, q)


def _chunk(
    start: Start,
    q: Distribution,
    exact: Tensor | None,
    betas: Tensor,
    options: Annealing,
    at_once: int,
    advance: Callable[[], object],
) -> dict[str, Tensor]:
    """Anneal the chains of one chunk of observations, at most ``at_once`` of each observation together."""
    tuning = tune(start, q, betas, options.leapfrog_steps, at_once)
    runs = []
    for span in spans(options.chains, at_once):
        vector = start.sample(len(span)) if exact is None else exact.expand(len(span), *exact.shape)
        runs.append(anneal(start, vector, betas, tuning, options.leapfrog_steps, advance, backwards=exact is not None))
    return {
        "log_weight": torch.cat([run.log_weight for run in runs]),
        "acceptance": torch.cat([run.acceptance for run in runs]),
    }


def _bar(options: Annealing, observations: int | None, passes: int) -> Any:
    """A bar over all temperatures of all observations, whose numbers say less than its percentage."""
    total = None if observations is None else observations * options.temperatures * passes
    shown = "annealing: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=total, bar_format=shown, disable=not options.progress)
