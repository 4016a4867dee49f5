"""A compiled function as one CUDA graph: the whole step is one launch, and Python is out of the way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.compile.compiler import Compiled
from amortvi.errors import CaptureError, quoted

__all__ = ["as_cuda_graph"]

_WARM_UPS = 3  # as torch.cuda.make_graphed_callables takes


def as_cuda_graph(compiled: Compiled, arguments: Sequence[Tensor], held: int, state: Sequence[Tensor]) -> Compiled:
    """Return ``compiled`` as a replay of what it launches.

    A replay reads and writes the memory that it was recorded with: arguments that are other tensors at each call are copied
    into place first.

    Args:
        compiled: the function.
        arguments: an example of its arguments.
        held: how many of them, from the first, are the same tensors at each call.
        state: what it writes into, which is put back.

    Raises:
        CaptureError: the launches cannot be recorded.
    """
    device = arguments[0].device
    placed = [*arguments[:held], *(argument.clone() for argument in arguments[held:])]
    before = [tensor.detach().clone() for tensor in state]
    graph = torch.cuda.CUDAGraph()
    try:
        with random_state(0, device):
            _warm_up(compiled, placed, device)
            with torch.cuda.graph(graph):
                results = compiled(placed)
    except RuntimeError as error:
        raise CaptureError(
            f"the compiled step could not be recorded as a CUDA graph: {quoted(error, lines=3)}. Leave compiling out with "
            f"compile=False, and please report the model."
        ) from error
    finally:
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

    def replay(given: Sequence[Tensor]) -> Sequence[Tensor]:
        for place, value in zip(placed[held:], given[held:], strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return results

    return replay


def _warm_up(compiled: Compiled, arguments: Sequence[Tensor], device: torch.device) -> None:
    """Run on a stream of its own, as CUDA graphs ask, so that libraries set themselves up before anything is recorded."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            compiled(arguments)
    torch.cuda.current_stream(device).wait_stream(stream)
