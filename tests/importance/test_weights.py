"""How many draws weights are worth."""

import pytest
import torch

from amortvi import _chunks
from amortvi.errors import DataError
from amortvi.importance import effective_sample_size


def test_known_weights() -> None:
    weights = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(weights.log()), torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))


def test_of_log_normal_weights() -> None:
    """For log weights of variance ``s``, ``E[w]^2 / E[w^2]`` is ``exp(-s)``."""
    log_weights = 0.8 * torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = effective_sample_size(log_weights).item() / 200_000
    assert share == pytest.approx(
        torch.tensor(-0.64).exp().item(), rel=0.02
    )  # the fourth moment sets five standard errors


def test_is_not_moved_by_a_constant_nor_by_overflow() -> None:
    log_weights = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = effective_sample_size(log_weights)
    for constant in (5000.0, -5000.0):
        torch.testing.assert_close(effective_sample_size(log_weights + constant), expected, rtol=1e-9, atol=0)


def test_no_weight_at_all_is_worth_nothing() -> None:
    assert effective_sample_size(torch.full((3, 2), -torch.inf)).tolist() == [0.0, 0.0]


def test_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    log_weights = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    whole = effective_sample_size(log_weights)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 40)
    assert torch.equal(effective_sample_size(log_weights), whole)
    log_weights[2, 7] = torch.nan
    with pytest.raises(DataError, match="observation 7 has nan"):
        effective_sample_size(log_weights)
