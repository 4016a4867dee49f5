"""Folded triangles are strictly lower triangular matrices."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from amortvi.families.folded import FoldedTriangle, folded_order
from tests.properties import PROPERTY

DIMS, BATCHES = st.integers(1, 9), st.sampled_from([(), (2,), (2, 3)])


def triangle(dim: int, batch: tuple[int, ...]) -> FoldedTriangle:
    size = dim * (dim - 1) // 2
    generator = torch.Generator().manual_seed(dim)
    return FoldedTriangle(torch.randn(*batch, size, generator=generator, dtype=torch.float64), dim)


@PROPERTY
@given(DIMS, BATCHES)
def test_matrices_are_strictly_lower_triangular_with_the_given_elements(dim: int, batch: tuple[int, ...]) -> None:
    folded = triangle(dim, batch)
    dense = folded.dense()
    assert torch.equal(dense, dense.tril(-1))
    rows, columns = torch.tril_indices(dim, dim, offset=-1)
    assert torch.equal(dense[..., rows, columns].sort(-1).values, folded.elements.sort(-1).values)


@PROPERTY
@given(DIMS, BATCHES, st.integers(1, 4))
def test_products_and_sums_are_those_of_the_dense_matrix(dim: int, batch: tuple[int, ...], columns: int) -> None:
    folded = triangle(dim, batch)
    vectors = torch.randn(*batch, dim, columns, dtype=torch.float64)
    torch.testing.assert_close(folded.matmul(vectors), folded.dense() @ vectors)
    torch.testing.assert_close(folded.row_sums_of_squares(), folded.dense().square().sum(-1))
    wide = folded.expand(torch.Size([5, *batch]))
    torch.testing.assert_close(wide.dense(), folded.dense().expand(5, *batch, dim, dim))


@PROPERTY
@given(DIMS)
def test_elements_in_row_order(dim: int) -> None:
    rows, columns = torch.tril_indices(dim, dim, offset=-1)
    elements = torch.arange(1.0, len(rows) + 1, dtype=torch.float64)
    dense = FoldedTriangle(elements[folded_order(dim)], dim).dense()
    assert torch.equal(dense[rows, columns], elements)
