"""Effective sample sizes of importance weights."""

import pytest
import torch

from amortvi._util import memory
from amortvi.errors import DataError
from amortvi.importance import effective_sample_size


def test_known_weights() -> None:
    weights = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(weights.log()), torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    assert effective_sample_size(torch.full((3, 2), -torch.inf)).tolist() == [0.0, 0.0]


def test_a_constant_factor_changes_nothing_and_never_overflows() -> None:
    log_weights = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = effective_sample_size(log_weights)
    for constant in (5000.0, -5000.0):
        torch.testing.assert_close(effective_sample_size(log_weights + constant), expected, rtol=1e-9, atol=0)


def test_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    log_weights = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    whole = effective_sample_size(log_weights)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 40)
    torch.testing.assert_close(effective_sample_size(log_weights), whole, rtol=1e-12, atol=0)
    log_weights[2, 7] = torch.nan
    with pytest.raises(DataError, match="observation 7 has nan"):
        effective_sample_size(log_weights)
