"""Recorded graphs that run operation by operation, so that tests of recordings do not wait for the compiler."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from amortvi.compile import compiled_function
from amortvi.compile.compiler import Compiled, compile_recording
from amortvi.compile.recording import Recording
from amortvi.compile.svi import compiled_step


def run_as_recorded(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
    """Stand in for `compile_recording`: like compiled code, the function keeps the memory of the tensors from outside."""
    outside = [tensor.detach() for tensor in recording.outside]

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.graph(*given, *outside)[: recording.results]

    return run


def _kept(monkeypatch: pytest.MonkeyPatch, compiler: Callable[..., Compiled]) -> list[Recording]:
    kept: list[Recording] = []

    def keep(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
        kept.append(recording)
        return compiler(recording, arguments)

    for module in (compiled_function, compiled_step):
        monkeypatch.setattr(module, "compile_recording", keep)
    return kept


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Run recordings without compiling them, and return those made so far."""
    return _kept(monkeypatch, run_as_recorded)


@pytest.fixture(params=["recorded", pytest.param("compiled", marks=pytest.mark.slow)])
def graphs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, recordings: list[Recording]
) -> list[Recording]:
    """Return the recordings made so far; the slow tests compile them."""
    return recordings if request.param == "recorded" else _kept(monkeypatch, compile_recording)
