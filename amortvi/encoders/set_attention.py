"""An encoder of sets that pools their elements by attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amortvi._util.checks import positive_int
from amortvi.encoders.deep_sets import log_count
from amortvi.encoders.mlp import MLP
from amortvi.encoders.row_encoder import RowEncoder
from amortvi.errors import OptionError

__all__ = ["SetAttention"]


class SetAttention(RowEncoder):
    """A network of each element, pooling by multihead attention, and a network of the result (Lee et al., 2019).

    Each head has a learned query and weighs the elements by it, so that it can select a few of them. The context does not
    depend on the order of the elements, nor on padding. The second network also reads the logarithm of their number.

    Args:
        in_features: the number of features of one element; twice as many with a mask of single features.
        hidden: the widths of the network of each element; the last is divided among the heads.
        heads: the number of heads.
        after_pooling: the widths of the network of the pooled features; the last is ``C``.
        other_features: the number of elements, per observation, of the arguments after values and mask.
        activation: returns a new activation module.

    Raises:
        OptionError: a width or ``heads`` is not a positive integer, or ``heads`` does not divide the last width.

    Example:
        >>> import torch
        >>> from amortvi import pad
        >>> values, mask = pad([[1.0, 2.0, 3.0], [4.0]])
        >>> SetAttention(1, hidden=[32], after_pooling=[16])(values, mask).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (64, 64),
        *,
        heads: int = 4,
        after_pooling: Sequence[int] = (64, 64),
        other_features: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(in_features, other_features)
        self.heads, width = positive_int("heads", heads), [self.in_features, *hidden][-1]
        if isinstance(width, int) and width % self.heads:
            raise OptionError(f"heads must divide the last width of hidden, {width}; got {self.heads}.")
        self.element = MLP(self.in_features, hidden, activation=activation)
        self.query = nn.Parameter(torch.randn(self.heads, 1, width // self.heads))
        self.key_and_value = nn.Linear(width, 2 * width)
        self.summary = MLP(width + 1 + self.other_features, after_pooling, activation=activation)
        self.out_features = self.summary.out_features

    def encode(self, rows: Tensor, mask: Tensor, others: Tensor) -> Tensor:
        features = self.element(rows.flatten(0, 1)).unflatten(0, mask.shape)
        # (B, heads, L, width of a head)
        keys, values = self.key_and_value(features).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # An empty set, whose rows are all zero, attends to all of them: weights without any element would be 0 / 0.
        attended = mask | ~mask.any(1, keepdim=True)
        queries = self.query.expand(len(rows), -1, -1, -1)
        pooled = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attended[:, None, None, :])
        return self.summary(pooled.flatten(1), log_count(mask, rows.dtype), others)
