"""Folded triangles are strictly lower triangular matrices."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from amortvi.families.gaussians.folded import FoldedTriangle, folded_order
from tests.properties import PROPERTY


@PROPERTY
@given(st.integers(1, 9), st.sampled_from([(), (2,), (2, 3)]), st.integers(1, 4))
def test_products_and_sums_are_those_of_the_dense_matrix(dim: int, batch: tuple[int, ...], size: int) -> None:
    rows, columns = torch.tril_indices(dim, dim, offset=-1)
    elements = torch.randn(*batch, len(rows), dtype=torch.float64)
    folded = FoldedTriangle(elements[..., folded_order(dim)], dim)
    dense = folded.dense()
    assert torch.equal(dense, dense.tril(-1))
    assert torch.equal(dense[..., rows, columns], elements)
    vectors = torch.randn(*batch, dim, size, dtype=torch.float64)
    torch.testing.assert_close(folded.matmul(vectors), dense @ vectors)
    torch.testing.assert_close(folded.row_sums_of_squares(), dense.square().sum(-1))
    torch.testing.assert_close(folded.expand(torch.Size([5, *batch])).dense(), dense.expand(5, *batch, dim, dim))
