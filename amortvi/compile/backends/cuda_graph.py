"""A compiled function of CUDA tensors, replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.compile.backends.interpreter import Run
from amortvi.errors import CaptureError, quoted

__all__ = ["as_cuda_graph"]

_WARM_UPS = 3  # as in torch.cuda.make_graphed_callables


def as_cuda_graph(compiled: Run, arguments: Sequence[Tensor], num_shared: int, state: Sequence[Tensor]) -> Run:
    """Return a function that replays the kernel launches of ``compiled``, and restore the ``state`` that capturing changes.

    A replay reads and writes the memory that it was captured with. The first ``num_shared`` arguments are the same tensors in
    every call; all others are copied into that memory first.
    """
    device = arguments[0].device
    static = [*arguments[:num_shared], *(argument.clone() for argument in arguments[num_shared:])]
    before = [tensor.detach().clone() for tensor in state]
    graph = torch.cuda.CUDAGraph()
    try:
        with random_state(0, device):
            _warm_up(compiled, static, device)
            with torch.cuda.graph(graph):
                results = compiled(static)
    except RuntimeError as error:
        raise CaptureError(
            f"the compiled step could not be captured as a CUDA graph: {quoted(error, lines=3)}. Use compile=False, and please "
            f"report the model."
        ) from error
    finally:
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

    def replay(given: Sequence[Tensor]) -> Sequence[Tensor]:
        for place, value in zip(static[num_shared:], given[num_shared:], strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return results

    return replay


def _warm_up(compiled: Run, arguments: Sequence[Tensor], device: torch.device) -> None:
    """Run on a side stream, as CUDA graphs require, so that libraries are initialized before the capture."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            compiled(arguments)
    torch.cuda.current_stream(device).wait_stream(stream)
