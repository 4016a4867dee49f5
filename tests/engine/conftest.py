"""Steps that run the recorded graph as it is, so that a recording is tested without the seconds that compiling takes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from amortvi.engine import compiled
from amortvi.engine.compiler import Compiled
from amortvi.engine.recording import Recording


def run_as_recorded(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
    outside = [tensor.detach() for tensor in recording.outside]

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.graph(*given, *outside)[: recording.results]

    return run


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is recorded run without inductor."""
    monkeypatch.setattr(compiled, "compile_recording", run_as_recorded)
