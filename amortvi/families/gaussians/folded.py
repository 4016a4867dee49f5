r"""Strictly lower triangular matrices, folded into rectangles without gaps.

Row ``r`` of such a matrix has ``r`` elements, so one long row and one short row together fill a row of a rectangle exactly:

.. code-block:: text

    0 . . .          d e f          long rows (here 2 and 3): from the left
    a 0 . .   ->     b c a          short rows (here 1 and 0): from the right, backwards
    b c 0 .
    d e f 0

Products and sums over rows are then plain arithmetic on a full rectangle with a constant mask. Writing the elements into a
square would take a gather, and a scatter for its gradient, and be ten times as slow.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FoldedTriangle", "folded_order"]


class FoldedTriangle:
    """Strictly lower triangular matrices ``N`` of size ``D``.

    Args:
        elements: the rectangles, row by row, shape ``(*B, D (D - 1) / 2)``.
        dim: ``D``.

    Example:
        >>> FoldedTriangle(torch.tensor([1.0, 2.0, 3.0]), 3).dense()
        tensor([[0., 0., 0.],
                [3., 0., 0.],
                [1., 2., 0.]])
    """

    def __init__(self, elements: Tensor, dim: int) -> None:
        self.dim = dim
        self.elements = elements
        rows, width = dim // 2, 2 * ((dim - 1) // 2) + 1
        self._width = width
        self._rectangle = elements.reshape(*elements.shape[:-1], rows, width)
        # Row k holds row (D + 1) // 2 + k of the matrix, followed by a short row.
        lengths = torch.arange((dim + 1) // 2, dim, device=elements.device)
        self._is_long = torch.arange(width, device=elements.device) < lengths.unsqueeze(-1)

    def _unfold(self, long: Tensor, short: Tensor, dim: int) -> Tensor:
        """Put the rows in the order of the matrix; for odd ``D``, the first row is empty and not in the rectangle."""
        parts = [short.flip(dim), long]
        if self.dim % 2:
            shape = list(long.shape)
            shape[dim] = 1
            parts.insert(0, long.new_zeros(shape))
        return torch.cat(parts, dim)

    def matmul(self, columns: Tensor) -> Tensor:
        """Return ``N columns``: ``(*B, D, S) -> (*B, D, S)``."""
        head = columns[..., : self._width, :]
        long = _product(torch.where(self._is_long, self._rectangle, 0), head)
        short = _product(torch.where(self._is_long, 0, self._rectangle), head.flip(-2))
        return self._unfold(long, short, -2)

    def row_sums_of_squares(self) -> Tensor:
        """Return the diagonal of ``N N'``, shape ``(*B, D)``."""
        squares = self._rectangle.square()
        long = torch.where(self._is_long, squares, 0).sum(-1)
        short = torch.where(self._is_long, 0, squares).sum(-1)
        return self._unfold(long, short, -1)

    def dense(self) -> Tensor:
        """Return the matrix ``N``, shape ``(*B, D, D)``."""
        identity = torch.eye(self.dim, dtype=self.elements.dtype, device=self.elements.device)
        return self.matmul(identity.expand(*self.elements.shape[:-1], -1, -1))

    def expand(self, batch_shape: torch.Size) -> FoldedTriangle:
        """Return the matrices with batch shape ``batch_shape``."""
        return FoldedTriangle(self.elements.expand(batch_shape + self.elements.shape[-1:]), self.dim)


def _product(matrix: Tensor, columns: Tensor) -> Tensor:
    if columns.shape[-1] == 1:
        # With one column, as in training with one draw, a compiler fuses this with the surrounding operations.
        return (matrix * columns.mT).sum(-1, keepdim=True)
    return matrix @ columns


def folded_order(dim: int) -> Tensor:
    """Return the position of each element of the rectangle in the concatenated rows of the triangle.

    Example:
        >>> folded_order(4)
        tensor([1, 2, 0, 3, 4, 5])
    """
    below = dim * (dim - 1) // 2
    positions = torch.arange(1, below + 1, dtype=torch.float64)
    rows, columns = torch.tril_indices(dim, dim, offset=-1)
    # Unfold the positions themselves; the result says which of them is at each place of the triangle.
    unfolded = FoldedTriangle(positions, dim).dense()[rows, columns]
    return unfolded.argsort()
