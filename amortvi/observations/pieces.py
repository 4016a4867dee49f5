"""Observations piece by piece, each as large as what is made of it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amortvi._chunks import spans
from amortvi._modes import random_state
from amortvi.observations.batch import Batch
from amortvi.observations.observations import Observations

__all__ = ["numbers_per_row", "pieces"]


def pieces(observations: Observations, limit: int, device: torch.device) -> Iterator[Batch]:
    """Go through observations in their order, at most ``limit`` at a time, on ``device``."""
    for batch in observations.batches(observations.batch_size_up_to(limit)):
        # A DataLoader gives the batches that it was made for, however large.
        for rows in spans(batch.size, limit):
            yield batch.take(slice(rows.start, rows.stop)).to(device)


def numbers_per_row(run: Callable[[Batch], object], example: Batch) -> int:
    """Return how many numbers the largest intermediate result of ``run`` has for each row.

    A user's network can be far wider than its input and its output, so this is measured, on copies of one row.

    Args:
        run: called with two batches of a few rows; its random numbers do not count as the caller's.
        example: any observations, on the device.

    Example:
        >>> layers = torch.nn.Sequential(torch.nn.Linear(3, 500), torch.nn.Linear(500, 2))
        >>> numbers_per_row(lambda batch: layers(*batch.args), Batch((torch.zeros(1, 3),)))
        500
    """
    row = example.take(slice(0, 1))
    counts = []
    for rows in (2, 4):
        with torch.no_grad(), random_state(0, next(row.tensors()).device), _Sizes() as sizes:
            run(row.repeat(rows))
        counts.append(sizes.numbers)
    few, more = counts
    # What does not grow with the rows, such as a transposed matrix of weights, is no reason for small chunks.
    growth = [b - a for a, b in zip(few, more, strict=True)] if len(few) == len(more) else more
    return max(1, max(growth, default=0) // 2)


class _Sizes(TorchDispatchMode):
    """Notes how many numbers each operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numbers.append(sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)))
        return result
