"""Training and evaluation mode of modules, changed for a while and then restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from amortvi._util.lock import exclusive

__all__ = ["evaluation_mode", "restored_modes"]


@contextlib.contextmanager
def restored_modes(*modules: nn.Module) -> Iterator[None]:
    """Restore the mode of each submodule on exit."""
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Put modules in evaluation mode; restore the mode of each submodule on exit. Other threads wait until then."""
    with exclusive(), restored_modes(*modules):
        for module in modules:
            module.eval()
        yield
