"""The largest numbers of each row.

NumPy sorts and partitions short rows with vector instructions, several times as fast as ``torch.topk`` on a CPU, so the
order is found with it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["largest"]

_GROUPS = 2.6
"""Groups for each of the numbers wanted. More make the bound tighter and dearer; this is about the cheapest."""


def largest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest numbers of each row in ascending order, and where they stand.

    The row is cut into groups. As many groups as are wanted have a largest member at or above the ``count``-th largest of
    these members: it bounds the answer from below, and little more than ``count`` numbers lie above it. Only those are sorted.

    Args:
        rows: ``(R, K)`` on the CPU, contiguous, without NaN.
        count: how many, at most ``K``.

    Returns:
        The numbers and their positions, ``(R, count)`` each. The position of a number that is no larger than the first
        one is not to be relied on.

    Example:
        >>> values, positions = largest(torch.tensor([[3.0, 9.0, 1.0, 7.0, 5.0]]), 3)
        >>> values, positions[:, 1:]
        (tensor([[5., 7., 9.]]), tensor([[3, 1]]))
    """
    height, width = rows.shape
    size = max(1, int(width / (_GROUPS * count)))
    members = rows[:, : width - width % size].view(height, size, -1).amax(1).numpy()
    bound = np.partition(members, -count, axis=1)[:, -count, np.newaxis]
    numbers = rows.numpy()
    above = np.flatnonzero(numbers > bound)
    row, position = np.divmod(above, width)
    found = np.bincount(row, minlength=height)
    start = np.cumsum(found) - found
    # Row by row, beside one another; a row with fewer numbers above its bound has the bound itself as the others.
    breadth = max(count, int(found.max(initial=0)))
    values = np.repeat(bound, breadth, axis=1)
    values.ravel()[np.arange(len(above)) + (np.arange(height) * breadth - start)[row]] = numbers.ravel()[above]
    order = np.argsort(values, axis=1)[:, -count:]
    source = np.minimum(start[:, np.newaxis] + order, len(above))
    positions = np.append(position, 0)[source]
    return torch.from_numpy(np.take_along_axis(values, order, axis=1)), torch.from_numpy(positions)
