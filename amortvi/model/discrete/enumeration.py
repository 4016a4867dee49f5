"""Runs of a model in which discrete latents take all their values at once, each in a dimension of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from typing import Any

from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger

__all__ = ["enumerated"]


class _Enumerate(Messenger):
    """Marks sites for parallel enumeration, whatever the user's program says about them."""

    def __init__(self, names: Set[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names:
            msg["infer"] = {"enumerate": "parallel"} | {
                key: value for key, value in msg["infer"].items() if key.startswith("_")
            }


@contextlib.contextmanager
def enumerated(names: Set[str], nesting: int) -> Iterator[None]:
    """Enumerate the latent sites ``names`` in parallel, in dimensions to the left of all plates.

    Args:
        names: the sites.
        nesting: the number of dimensions that the plates of the model take.

    Example:
        >>> import pyro, torch
        >>> with enumerated({"y"}, nesting=1), pyro.plate("data", 3):
        ...     pyro.sample("y", pyro.distributions.Categorical(torch.ones(4) / 4)).shape
        torch.Size([4, 1])
    """
    if not names:
        yield
        return
    with EnumMessenger(first_available_dim=-1 - nesting), _Enumerate(names):
        yield
