"""Graphs that are recorded but not compiled: recording is what can go wrong, compiling takes seconds each time."""

from collections.abc import Iterator, Sequence

import pyro
import pytest
import torch
from torch import Tensor

from amortvi.engine.recording import Recording


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def _interpreted(recording: Recording, arguments: Sequence[Tensor]):
    outside = [tensor.detach() for tensor in recording.outside]

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.graph(*given, *outside)[: recording.results]

    return run


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run recorded graphs operation by operation."""
    monkeypatch.setattr("amortvi.svi.plan.compile_recording", _interpreted)
