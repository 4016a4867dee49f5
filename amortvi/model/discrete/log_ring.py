"""Sums and products of probabilities as operations on their logarithms, exact wherever the logarithms are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from pyro.ops import packed
from pyro.ops.rings import LogRing
from torch import Tensor

from amortvi.model.discrete.factor import named, symbols_of

__all__ = ["LogSumExpRing"]


class LogSumExpRing(LogRing):
    """The operations of `pyro.ops.contract` on tensors of log-probabilities.

    Pyro's own ring multiplies the probabilities of each factor relative to its largest, so a sum can underflow if the factors
    are largest at different values. Here, products are sums of logarithms, and each variable is summed out by one
    ``logsumexp``, the variable with the smallest table first.

    Args:
        sizes: the size of each dimension by its symbol.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__(dim_to_size=dict(sizes))  # type: ignore[no-untyped-call]  # Pyro does not annotate it
        self._sizes = sizes

    def sumproduct(self, terms: Sequence[Tensor], dims: Iterable[str]) -> Tensor:
        """Multiply the probabilities ``terms`` and sum over ``dims``."""
        factors, left = list(terms), sorted(dims)
        while left:
            dim = min(left, key=lambda each: self._table_size(factors, each))
            left.remove(dim)
            table = _product([factor for factor in factors if dim in symbols_of(factor)])
            factors = [factor for factor in factors if dim not in symbols_of(factor)]
            symbols = symbols_of(table)
            factors.append(named(_log_sum_exp(table, symbols.index(dim)), symbols.replace(dim, "")))
        return _product(factors)

    def _table_size(self, factors: Sequence[Tensor], dim: str) -> int:
        """Return the number of elements of the product of all factors that depend on ``dim``."""
        return math.prod(
            self._sizes[each] for each in {d for f in factors if dim in symbols_of(f) for d in symbols_of(f)}
        )


def _log_sum_exp(table: Tensor, dim: int) -> Tensor:
    # Where all are impossible, the gradient of torch.logsumexp is NaN instead of zero.
    impossible = (table == -math.inf).all(dim, keepdim=True)
    return table.masked_fill(impossible, 0.0).logsumexp(dim).masked_fill(impossible.squeeze(dim), -math.inf)


def _product(factors: Sequence[Tensor]) -> Tensor:
    if len(factors) == 1:
        return factors[0]
    aligned = packed.broadcast_all(*factors)
    return named(reduce(torch.add, aligned), symbols_of(aligned[0]))
