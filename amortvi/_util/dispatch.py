"""The base of modes that see each tensor operation."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DispatchMode"]


class DispatchMode(TorchDispatchMode):
    """Calls ``__torch_dispatch__`` for each tensor operation, also for those of modules that ``torch.compile`` has wrapped.

    These run without being compiled. Torch would otherwise exclude the mode from compiling, for which it imports its compiler:
    one to three seconds in a program that compiles nothing.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's modes are not annotated
        self._stance = contextlib.ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Self:
        if "torch._dynamo" in sys.modules:
            self._stance.enter_context(torch.compiler.set_stance("force_eager"))
        super().__enter__()  # type: ignore[no-untyped-call]  # as above
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # as above
        self._stance.close()
