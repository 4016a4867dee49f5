"""A function of a minibatch, recorded and compiled when it is first called with each shape; on a GPU, as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.compile.compiler import Compiled, compile_recording
from amortvi.compile.recording import record
from amortvi.data import Minibatch
from amortvi.errors import CaptureError, quoted

__all__ = ["CompiledFunction"]


class CompiledFunction:
    """A function of a minibatch, compiled once per shape; it returns tensors and may change other tensors in place."""

    def __init__(self, function: Callable[[Minibatch], Sequence[Tensor]]) -> None:
        self.function = function
        self._compiled: dict[Hashable, tuple[Hashable, Compiled]] = {}
        self._fingerprint: Hashable = None

    def keep_for(self, fingerprint: Hashable) -> bool:
        """Discard all compiled code if ``fingerprint`` has changed, and return whether it is still the same."""
        if fingerprint != self._fingerprint:
            self._compiled.clear()
            self._fingerprint = fingerprint
            return False
        return True

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Return whether the function is compiled for the shape of ``minibatch``."""
        return _shape(minibatch.tensors()) in self._compiled

    def __call__(self, minibatch: Minibatch) -> Sequence[Tensor]:
        """Run the compiled function; if it cannot be recorded or compiled, raise `CaptureError` and change nothing."""
        tensors = minibatch.tensors()
        shape = _shape(tensors)
        # A CUDA graph reads its data from the memory that it was captured with.
        memory = tuple(tensor.data_ptr() for tensor in tensors[: minibatch.num_shared]) if tensors[0].is_cuda else ()
        compiled_with, compiled = self._compiled.get(shape, (None, None))
        if compiled is None or compiled_with != memory:
            compiled = self._compile(minibatch, tensors)
            self._compiled[shape] = memory, compiled
        return compiled(tensors)

    def _compile(self, minibatch: Minibatch, tensors: list[Tensor]) -> Compiled:
        def function(*arguments: Tensor) -> Sequence[Tensor]:
            return self.function(minibatch.replace(list(arguments)))

        with random_state(0, tensors[0].device):
            others = minibatch.bootstrap().tensors()
        recording = record(function, tensors, others)
        compiled = compile_recording(recording, tensors)
        if tensors[0].is_cuda:
            compiled = _as_cuda_graph(compiled, tensors, minibatch.num_shared, recording.outside)
        return compiled


def _shape(tensors: list[Tensor]) -> Hashable:
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)


_WARM_UPS = 3  # as in torch.cuda.make_graphed_callables


def _as_cuda_graph(
    compiled: Compiled, arguments: Sequence[Tensor], num_shared: int, state: Sequence[Tensor]
) -> Compiled:
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


def _warm_up(compiled: Compiled, arguments: Sequence[Tensor], device: torch.device) -> None:
    """Run on a side stream, as CUDA graphs require, so that libraries are initialized before the capture."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            compiled(arguments)
    torch.cuda.current_stream(device).wait_stream(stream)
