"""A scope in which the Pyro statements of a part of the inference network are hidden."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyro
from pyro import poutine

__all__ = ["private_pyro_scope"]


@contextlib.contextmanager
def private_pyro_scope() -> Iterator[None]:
    """Hide Pyro statements from the global param store and from surrounding handlers."""
    with pyro.get_param_store().scope(), poutine.block():
        yield
