"""The log-probability of one site in a run with enumerated latents, as a tensor with named dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pyro.ops import packed
from torch import Tensor

from amortvi.model.discrete.sites import DiscreteSite
from amortvi.model.sites import Site

__all__ = ["Factor", "named", "symbols_of"]


def named(tensor: Tensor, symbols: Sequence[str]) -> Tensor:
    """Name the dimensions of ``tensor`` as `pyro.ops.packed` does, which omits those of size one."""
    kept = [symbol for symbol, size in zip(symbols, tensor.shape, strict=True) if size > 1]
    tensor = tensor.squeeze()
    tensor._pyro_dims = "".join(kept)  # type: ignore[attr-defined]  # where pyro.ops expects the symbols
    return tensor


def symbols_of(tensor: Tensor) -> str:
    """Return the symbol of each dimension of a tensor that `named` or `pyro.ops` has returned."""
    found: str = tensor._pyro_dims  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class Factor:
    """The log-probability of one site.

    Args:
        site: the site.
        log_prob: its log-probability, `named`.
        plates: the symbols of the plates around the site.
        discrete: the description of the site, if it was enumerated.
        own: the symbols of the data plate, the nested plates from the outermost, and the values, if the site was enumerated.
    """

    site: Site
    log_prob: Tensor
    plates: frozenset[str]
    discrete: DiscreteSite | None = None
    own: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the site."""
        return self.site.name

    @property
    def variables(self) -> set[str]:
        """The symbols of the enumerated latents on which the log-probability depends."""
        return set(symbols_of(self.log_prob)) - self.plates

    def detached(self) -> Factor:
        """Return the factor with a copy of its log-probability, which requires a gradient if the site was enumerated."""
        leaf = self.log_prob.detach().clone().requires_grad_(self.discrete is not None)
        return replace(self, log_prob=named(leaf, symbols_of(self.log_prob)))

    def fixed(self, index: Tensor) -> Factor:
        """Return the factor of an enumerated site with probability zero except at positions ``(B, *nested)`` of its values."""
        assert self.discrete is not None
        excluded = torch.nn.functional.one_hot(index, len(self.discrete.values)) == 0
        penalty = self.log_prob.new_zeros(excluded.shape).masked_fill(excluded, -math.inf)
        one, other = packed.broadcast_all(self.log_prob, named(penalty, self.own))
        return replace(self, log_prob=named(one + other, symbols_of(one)))

    def marginal(self, table: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """Sum ``table``, shaped like the log-probability of an enumerated site, over other latents: ``(B, *nested, V)``."""
        symbols = symbols_of(self.log_prob)
        others = [position for position, symbol in enumerate(symbols) if symbol not in self.own]
        table = table.sum(others) if others else table
        left = [symbol for symbol in symbols if symbol in self.own]
        table = table.permute([left.index(symbol) for symbol in self.own if symbol in left])
        return table.reshape([sizes[symbol] for symbol in self.own])
