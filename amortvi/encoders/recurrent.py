"""A recurrent encoder of sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amortvi._util.checks import layer_widths
from amortvi.encoders.row_encoder import RowEncoder
from amortvi.errors import OptionError

__all__ = ["Recurrent"]


class Recurrent(RowEncoder):
    """Gated recurrent units (Cho et al., 2014) over the steps of a sequence, forwards and backwards.

    A step that the mask excludes leaves the state as it is, at the end of a sequence and inside it.

    Args:
        in_features: the number of features of one step; twice as many with a mask of single features.
        hidden: the width of the state of each layer. An upper layer reads the states of the layer below.
        bidirectional: whether each layer also reads the sequence backwards, with other weights, so that each of its states
            depends on the whole sequence.
        per_step: whether the context consists of the states at all ``T`` steps, ``(B, T * out_features)``, for models with
            latents at each step. All data then need the same ``T``. By default, it is the state after the last step and, of
            the backward direction, the one after the first: ``(B, out_features)``.
        other_features: the number of elements, per observation, of the arguments after values and mask. Each step reads them.

    Raises:
        OptionError: a width is not a positive integer, or there is none.

    Example:
        >>> import torch
        >>> from amortvi import pad
        >>> values, mask = pad([[1.0, 2.0, 3.0], [4.0]])
        >>> Recurrent(1, hidden=[16])(values, mask).shape
        torch.Size([2, 32])
        >>> Recurrent(1, hidden=[16], per_step=True)(values, mask).shape
        torch.Size([2, 96])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (64,),
        *,
        bidirectional: bool = True,
        per_step: bool = False,
        other_features: int = 0,
    ) -> None:
        super().__init__(in_features, other_features)
        widths = layer_widths("hidden", hidden)
        if not widths:
            raise OptionError("hidden must hold at least one width, such as [64]; got none.")
        self.per_step = per_step
        self.layers = nn.ModuleList()
        previous = self.in_features + self.other_features
        for width in widths:
            self.layers.append(_Layer(previous, width, bidirectional=bidirectional))
            previous = width * (1 + bool(bidirectional))
        self.out_features = previous

    def encode(self, rows: Tensor, mask: Tensor, others: Tensor) -> Tensor:
        states = torch.cat([rows, others.unsqueeze(1).expand(-1, rows.shape[1], -1)], dim=2)
        last = states[:, -1]
        for layer in self.layers:
            states, last = layer(states, mask)
        return states.flatten(1) if self.per_step else last


class _Layer(nn.Module):
    """One layer, in one or two directions."""

    def __init__(self, in_features: int, width: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.width = width
        self.cells = nn.ModuleList(nn.GRUCell(in_features, width) for _ in range(1 + bool(bidirectional)))

    def forward(self, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states at each step, ``(B, T, features)``, and those at the end of each direction, ``(B, features)``."""
        states, last = [], []
        for cell, is_backwards in zip(self.cells, (False, True), strict=False):
            steps = range(rows.shape[1])
            state, found = rows.new_zeros(len(rows), self.width), []
            for step in reversed(steps) if is_backwards else steps:
                # Packed sequences would skip the steps that do not count, but a recorded step allows no sizes that depend on
                # the mask.
                state = torch.where(mask[:, step, None], cell(rows[:, step], state), state)
                found.append(state)
            states.append(torch.stack(found[::-1] if is_backwards else found, dim=1))
            last.append(state)
        return torch.cat(states, dim=2), torch.cat(last, dim=1)
