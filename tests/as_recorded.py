"""Recorded graphs that run operation by operation: recording is what can go wrong, compiling takes seconds each time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from amortvi.compile.compiler import Compiled
from amortvi.compile.recording import Recording


def run_as_recorded(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
    """What stands in for `compile_recording`."""
    outside = [tensor.detach() for tensor in recording.outside]

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return recording.graph(*given, *outside)[: recording.results]

    return run
