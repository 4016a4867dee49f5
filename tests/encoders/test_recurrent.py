"""The recurrent encoder, compared with that of PyTorch on sequences without padding and on packed ones."""

import pytest
import torch
from torch import Tensor, nn

from amortvi.encoders import Recurrent
from tests.encoders.cases import padded

SIZES = [3, 1, 5, 2]


def with_reference(*, bidirectional: bool, per_step: bool = False) -> tuple[Recurrent, nn.GRU]:
    """Return an encoder of two layers and PyTorch's network with the same weights."""
    torch.manual_seed(0)
    encoder = Recurrent(2, [4, 4], bidirectional=bidirectional, per_step=per_step).double()
    reference = nn.GRU(2, 4, num_layers=2, batch_first=True, bidirectional=bidirectional).double()
    cells = [cell for cell in encoder.modules() if isinstance(cell, nn.GRUCell)]
    names = [f"l{layer}{end}" for layer in range(2) for end in (("", "_reverse") if bidirectional else ("",))]
    with torch.no_grad():
        for cell, name in zip(cells, names, strict=True):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(cell, kind).copy_(getattr(reference, f"{kind}_{name}"))
    return encoder, reference


def packed(reference: nn.GRU, x: Tensor) -> tuple[Tensor, Tensor]:
    rows = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(SIZES), batch_first=True, enforce_sorted=False)
    states, last = reference(rows)
    return nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0], last


@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_states_equal_those_of_packed_sequences(bidirectional: bool) -> None:
    encoder, reference = with_reference(bidirectional=bidirectional)
    x, mask = padded(9)
    _, last = packed(reference, x)
    expected = torch.cat(list(last[2:] if bidirectional else last[1:]), dim=1)
    torch.testing.assert_close(encoder(x, mask), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_at_each_step(bidirectional: bool) -> None:
    encoder, reference = with_reference(bidirectional=bidirectional, per_step=True)
    x, mask = padded()
    states, _ = packed(reference, x)
    context = encoder(x, mask)
    assert context.shape == (4, 5 * encoder.out_features)
    found = context.unflatten(1, (5, encoder.out_features))
    torch.testing.assert_close(found[mask], states[mask], rtol=1e-12, atol=1e-12)
    # The state is carried over the padding.
    torch.testing.assert_close(found[1, 1:, :4], found[1, :1, :4].expand(4, -1))


def test_steps_inside_a_sequence_can_be_missing() -> None:
    encoder = Recurrent(2, [4, 3]).double()
    x, mask = torch.randn(3, 6, 2, dtype=torch.float64), torch.ones(3, 6, dtype=torch.bool)
    mask[:, [1, 2, 4]] = False
    torch.testing.assert_close(encoder(x, mask), encoder(x[:, [0, 3, 5]]), rtol=1e-12, atol=1e-12)


def test_each_step_depends_on_the_past_or_on_the_whole() -> None:
    x = torch.randn(1, 4, 1, dtype=torch.float64)
    for bidirectional in (False, True):
        encoder = Recurrent(1, [2], bidirectional=bidirectional, per_step=True).double()
        jacobian = torch.autograd.functional.jacobian(encoder, x).reshape(4, -1, 4).abs().sum(1)
        assert torch.equal(jacobian != 0, torch.ones(4, 4, dtype=torch.bool).tril(0 if not bidirectional else 3))
