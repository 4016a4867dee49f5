"""Resampling chooses each draw in proportion to its weight."""

import pytest
import torch

from amortvi._util import memory
from amortvi.errors import DataError, OptionError
from amortvi.importance import resample

WEIGHTS = torch.tensor([0.5, 0.0, 0.1, 0.25, 0.149, 0.001], dtype=torch.float64)


@pytest.mark.parametrize("method", ["systematic", "multinomial"])
def test_counts_are_unbiased(method: str) -> None:
    """Over many observations with the same weights, the mean count is ``draws`` times the weight."""
    observations, draws = 20_000, 7
    log_weights = (WEIGHTS.log() - 800).unsqueeze(1).expand(-1, observations)
    chosen = resample(log_weights, draws, method=method, seed=0)
    assert chosen.shape == (draws, observations)
    counts = torch.nn.functional.one_hot(chosen, len(WEIGHTS)).sum(0).double()
    expected = draws * WEIGHTS
    error = counts.std(0) / observations**0.5
    assert ((counts.mean(0) - expected).abs() <= 5 * error + 1e-12).all()
    assert (counts[:, 1] == 0).all()
    if method == "systematic":
        assert ((counts - expected).abs() < 1).all()  # rounded up or down
    else:
        torch.testing.assert_close(counts.var(0), draws * WEIGHTS * (1 - WEIGHTS), rtol=0.1, atol=1e-3)
        assert (counts[:, 0] > expected[0] + 1).any()


def test_choices_for_different_observations_are_independent() -> None:
    log_weights = torch.zeros(10, 2000)
    chosen = resample(log_weights, 1, seed=0).squeeze(0)
    assert abs(torch.corrcoef(chosen.double().reshape(2, -1))[0, 1]) < 5 / 1000**0.5
    assert chosen.unique().numel() == 10


def test_a_seed_reproduces_the_choice() -> None:
    log_weights = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first = resample(log_weights, 20, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(resample(log_weights, 20, seed=3), first)
    assert not torch.equal(resample(log_weights, 20, seed=4), first)


def test_results_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    log_weights = torch.log(torch.eye(8) + 1e-30)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 40)
    assert torch.equal(resample(log_weights, 4, seed=0), torch.arange(8).expand(4, 8))
    log_weights[:, 6] = -torch.inf
    with pytest.raises(DataError, match="observation 6 has none"):
        resample(log_weights, 4)


def test_invalid_input_is_refused() -> None:
    with pytest.raises(DataError, match="positive weight for each observation; observation 1 has none"):
        resample(torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]]), 3)
    with pytest.raises(DataError, match="observation 0 has nan"):
        resample(torch.tensor([[torch.nan]]), 3)
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        resample(torch.zeros(3, 1), 0)
    with pytest.raises(OptionError, match=r"method must be one of \['systematic', 'multinomial'\]; got 'residual'"):
        resample(torch.zeros(3, 1), 2, method="residual")  # type: ignore[arg-type]
