"""The comparison of the truth with posterior draws, in blocks of simulations that workers can share."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amortvi._util.executors import run_jobs
from amortvi._util.memory import spans
from amortvi._util.random import derived_seed, random_state
from amortvi.data import Observations, TensorObservations
from amortvi.diagnostics.calibration.coverage import reference_points
from amortvi.diagnostics.calibration.truth_comparison import JOINT, TruthComparison, random_directions
from amortvi.diagnostics.calibration.verdicts import Array
from amortvi.diagnostics.simulation import Simulated
from amortvi.errors import NonFiniteError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior

__all__ = ["Compared", "PosteriorFunction", "compare_with_truth"]

PosteriorFunction = Callable[[Observations], Posterior]

_SMALLEST = 250
"""The fewest simulations in a block: a refinement of fewer observations is hardly faster."""
_BLOCKS = 16
"""The largest number of blocks."""


@dataclass(frozen=True)
class Compared:
    """The results for all simulations.

    Args:
        names: the quantities whose ranks were computed.
        labels: the unconstrained coordinates.
        values: what `TruthComparison.reduce` returns, for all simulations.
        second_moment: the second moment of the whitened draws, ``(D, D)``.
        squared_correlation: the mean squared correlations of the posteriors, ``(D, D)``.
    """

    names: list[str]
    labels: list[str]
    values: dict[str, Array]
    second_moment: Array
    squared_correlation: Array

    def check_spread(self) -> None:
        """Raise `NonFiniteError` if all draws equal the mean of their posterior, because its scale is lost in rounding."""
        moments = self.second_moment.diagonal().tolist()
        constant = [label for label, moment in zip(self.labels, moments, strict=True) if moment == 0]
        if constant:
            raise NonFiniteError(
                f"the draws of {', '.join(constant)} do not vary on data simulated from the prior: their standard deviations are "
                f"lost in rounding, so the truth is infinitely many of them away. Train the encoder again with a smaller lr, or "
                f"refine the posteriors (posterior=vi.refine)."
            )


def compare_with_truth(
    vi: AmortizedVI,
    simulated: Simulated,
    draws: int,
    posterior: PosteriorFunction | None,
    seed: int,
    executor: Executor | None,
) -> Compared:
    """Compare simulated latents with draws from the posteriors of the simulated data.

    Args:
        vi: the estimator.
        simulated: the simulations.
        draws: the number of draws from each posterior.
        posterior: makes the posteriors of a block.
        seed: the seed of all random numbers.
        executor: whose workers compare the blocks, with the same results.
    """
    dim = simulated.vector.shape[1]
    with random_state(seed):
        references, directions = reference_points(simulated.batch, dim), random_directions(dim)
    shared: dict[str, Any] = {"vi": vi, "posterior": posterior, "directions": directions, "draws": draws}
    rows = [
        slice(each.start, each.stop)
        for each in spans(simulated.size, max(_SMALLEST, math.ceil(simulated.size / _BLOCKS)))
    ]
    blocks: list[dict[str, Any]] = [
        {
            "observations": _block(simulated.observations, each),
            "truth": simulated.vector[each].clone(),
            "references": references[each].clone(),
            "seed": derived_seed(seed, number),
        }
        for number, each in enumerate(rows)
    ]
    if executor is None:
        found = [_compare(**block, **shared) for block in blocks]
    else:
        found = run_jobs(executor, _compare, shared, dict(enumerate(blocks)), unit="block").values()
    values, moments, correlations = zip(*found, strict=True)
    labels = vi.generative.latents.labels
    return Compared(
        [*labels, *JOINT, *(f"projection {i + 1}" for i in range(directions.shape[1]))],
        labels,
        {name: torch.cat([each[name] for each in values]).numpy() for name in values[0]},
        (torch.stack(moments).sum(0) / simulated.size).numpy(),
        (torch.stack(correlations).sum(0) / simulated.size).numpy(),
    )


def _block(observations: Observations, rows: slice) -> Observations:
    batch = observations.as_batch()
    if rows == slice(0, batch.size):
        return observations
    # A copy: a slice would take all data to a worker.
    return TensorObservations(batch.take(rows).map(torch.clone), f"{observations.name}[{rows.start}:{rows.stop}]")


def _compare(
    vi: AmortizedVI,
    posterior: PosteriorFunction | None,
    directions: Tensor,
    draws: int,
    observations: Observations,
    truth: Tensor,
    references: Tensor,
    seed: int | None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Compare one block; return the values of its simulations, and sums over them."""
    with random_state(seed, vi.device):
        comparison = TruthComparison(_posterior(vi, posterior, observations), truth, references, directions)
        values = comparison.posterior.importance_sample(draws, comparison.reduce, keep_draws=True)
    return values, comparison.second_moment, comparison.squared_correlation


def _posterior(vi: AmortizedVI, posterior: Any, observations: Observations) -> Posterior:
    if posterior is None:
        return vi.resolve_posterior(observations, None)
    found = posterior(observations) if callable(posterior) else posterior
    if not callable(posterior) or not isinstance(found, Posterior):
        raise OptionError(
            f"posterior must be a function from the simulated observations to their Posterior, such as vi.refine; got "
            f"{'a function that returned ' * callable(posterior)}{found!r}."
        )
    return vi.resolve_posterior(observations, found)
