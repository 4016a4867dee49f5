"""One loop over observations in bounded memory: `map_chunks`.

A user's network can be far wider than its input and output, so memory is measured: the computation runs on copies of one
observation, and the size of the largest intermediate result determines the size of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from amortvi._util.dispatch import DispatchMode
from amortvi._util.memory import Gathered, rows_at_once, spans
from amortvi._util.random import random_state
from amortvi.data.batch import Batch
from amortvi.data.observations import Observations
from amortvi.data.rereading import MOST_OBSERVATIONS

__all__ = ["Chunk", "iter_batches", "iter_chunks", "map_chunks", "measure_width"]


@dataclass(frozen=True)
class Chunk:
    """Observations that are processed together.

    Args:
        batch: the observations, on the device.
        rows: their positions among all observations.
        draws: the number of draws for each observation.
        draws_at_once: the number of draws of each observation that fit in memory together.
    """

    batch: Batch
    rows: range
    draws: int = 1
    draws_at_once: int = 1

    def draw_spans(self) -> Iterator[range]:
        """Split the draws into ranges that fit in memory."""
        return spans(self.draws, self.draws_at_once)


def map_chunks(
    observations: Observations,
    compute: Callable[[Chunk], Mapping[str, Tensor]],
    *,
    device: torch.device,
    draws: int = 1,
    observation_dim: int = 0,
    probe: Callable[[Chunk], object] | None = None,
) -> dict[str, Tensor]:
    """Apply ``compute`` to chunks of observations and collect the results on the CPU.

    Apart from the results, memory is bounded for any number of observations and draws.

    Args:
        observations: ``N`` observations.
        compute: takes a chunk, processes its draws in `Chunk.draw_spans`, and returns tensors by name.
        device: the device of the chunks.
        draws: the number of draws for each observation.
        observation_dim: the dimension of the results that indexes observations.
        probe: replaces ``compute`` in the measurement of memory if ``compute`` takes long or has side effects.
    """
    # The length of a data set may be wrong; more room is made if it is needed.
    expected = observations.size if observations.in_memory else min(observations.size or 0, MOST_OBSERVATIONS)
    gathered = Gathered(expected, observation_dim)
    for chunk in iter_chunks(observations, probe or compute, device=device, draws=draws):
        gathered.add(compute(chunk))
    return gathered.result()


def iter_chunks(
    observations: Observations, probe: Callable[[Chunk], object], *, device: torch.device, draws: int = 1
) -> Iterator[Chunk]:
    """Iterate over the observations in chunks that are small enough for the computation ``probe``."""
    example = observations.first(1).take(slice(0, 1)).to(device)
    width = measure_width(lambda batch: probe(Chunk(batch, range(batch.size))), example)
    at_once = min(draws, rows_at_once(width))
    start = 0
    for batch in iter_batches(observations, rows_at_once(width * at_once), device):
        yield Chunk(batch, range(start, start + batch.size), draws, at_once)
        start += batch.size


def iter_batches(observations: Observations, limit: int, device: torch.device) -> Iterator[Batch]:
    """Iterate over the observations in order, at most ``limit`` at a time, on ``device``."""
    for batch in observations.batches(observations.batch_size_within(limit)):
        # The batches of a DataLoader have their own size, however large.
        for rows in spans(batch.size, limit):
            yield batch.take(slice(rows.start, rows.stop)).to(device)


def measure_width(run: Callable[[Batch], object], example: Batch) -> int:
    """Return the number of elements per observation of the largest intermediate result of ``run``.

    ``run`` is called with two and with four copies of the first observation of ``example``.
    """
    row = example.take(slice(0, 1))
    counts = []
    for copies in (2, 4):
        with torch.no_grad(), random_state(0, row.device), _SizeRecorder() as sizes:
            run(row.repeat(copies))
        counts.append(sizes.numbers)
    few, more = counts
    # Results that do not grow with the observations, such as transposed weights, do not limit the size of a chunk.
    growth = [b - a for a, b in zip(few, more, strict=True)] if len(few) == len(more) else more
    return max(1, max(growth, default=0) // 2)


class _SizeRecorder(DispatchMode):
    """Records the number of elements that each operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numbers.append(sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)))
        return result
