"""An encoder of sets that pools a network of their elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from amortvi.encoders.mlp import MLP
from amortvi.encoders.row_encoder import RowEncoder
from amortvi.errors import OptionError

__all__ = ["DeepSets", "Pooling", "log_count"]

Pooling: TypeAlias = Literal["mean", "sum", "max"]


class DeepSets(RowEncoder):
    """A network of each element, pooled over the set, and a network of the result (Zaheer et al., 2017).

    The context does not depend on the order of the elements, nor on padding. The second network also reads the logarithm of
    their number, without which a posterior could not become narrower with more data.

    Args:
        in_features: the number of features of one element; twice as many with a mask of single features.
        hidden: the widths of the network of each element.
        pooling: ``"mean"``, ``"sum"`` or ``"max"``, for each feature of that network. Maxima suit posteriors that depend on
            extreme elements; they learn means poorly.
        after_pooling: the widths of the network of the pooled features; the last is ``C``. Without layers, the context
            consists of the pooled features, the logarithm of one plus the number of elements, and the other arguments.
        other_features: the number of elements, per observation, of the arguments after values and mask.
        activation: returns a new activation module.

    Raises:
        OptionError: a width is not a positive integer, or ``pooling`` is unknown.

    Example:
        >>> import torch
        >>> from amortvi import pad
        >>> values, mask = pad([[1.0, 2.0, 3.0], [4.0]])
        >>> DeepSets(1, hidden=[32], after_pooling=[16])(values, mask).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (64, 64),
        pooling: Pooling = "mean",
        *,
        after_pooling: Sequence[int] = (64, 64),
        other_features: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(in_features, other_features)
        if pooling not in ("mean", "sum", "max"):
            raise OptionError(f"pooling must be 'mean', 'sum' or 'max'; got {pooling!r}.")
        self.pooling = pooling
        self.element = MLP(self.in_features, hidden, activation=activation)
        pooled = self.element.out_features + 1 + self.other_features
        self.summary = MLP(pooled, after_pooling, activation=activation)
        self.out_features = self.summary.out_features

    def encode(self, rows: Tensor, mask: Tensor, others: Tensor) -> Tensor:
        features = self.element(rows.flatten(0, 1)).unflatten(0, mask.shape)
        if self.pooling == "max":
            pooled = features.masked_fill(~mask.unsqueeze(2), -torch.inf).amax(1)
            pooled = pooled.masked_fill(~mask.any(1, keepdim=True), 0.0)  # the maximum of an empty set is -infinity
        else:
            pooled = features.masked_fill(~mask.unsqueeze(2), 0.0).sum(1)
            if self.pooling == "mean":
                pooled = pooled / mask.sum(1, keepdim=True).clamp(min=1)
        return self.summary(pooled, log_count(mask, rows.dtype), others)


def log_count(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the logarithm of one plus the number of rows that count, ``(B, 1)``, for a mask ``(B, L)``.

    Example:
        >>> log_count(torch.tensor([[True, False], [False, False]]), torch.float32)
        tensor([[0.6931],
                [0.0000]])
    """
    return mask.sum(1, keepdim=True).to(dtype).log1p()
