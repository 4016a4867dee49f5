"""Recorded graphs that run operation by operation, so that tests of recordings do not wait for the compiler."""

from collections.abc import Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor

from amortvi.compile.compiler import Compiled
from amortvi.compile.recording import Recording


def run_as_recorded(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
    """Stand in for `compile_recording`: like compiled code, the function keeps the memory of the tensors from outside."""
    outside = [tensor.detach() for tensor in recording.outside]

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.graph(*given, *outside)[: recording.results]

    return run


def without_compiler(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Recording]:
    """Replace the compiler in a module that imports `compile_recording`, and return the list to which it adds recordings."""
    recordings: list[Recording] = []

    def keep(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
        recordings.append(recording)
        return run_as_recorded(recording, arguments)

    monkeypatch.setattr(module, "compile_recording", keep)
    return recordings
