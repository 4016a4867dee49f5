"""A function of a minibatch that is recorded and compiled at its first call with each shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from amortvi._util.random import random_state
from amortvi.compile.compiler import Compiled, compile_recording
from amortvi.compile.cuda_graph import as_cuda_graph
from amortvi.compile.recording import record
from amortvi.data import Minibatch

__all__ = ["CompiledFunction"]


class CompiledFunction:
    """A function of a minibatch, compiled once per shape.

    Args:
        function: takes a minibatch, returns tensors, and may change other tensors in place.

    Attributes:
        compilations: the number of compilations so far.
    """

    def __init__(self, function: Callable[[Minibatch], Sequence[Tensor]]) -> None:
        self.function = function
        self.compilations = 0
        self._compiled: dict[Hashable, tuple[Hashable, Compiled]] = {}
        self._fingerprint: Hashable = None

    def keep_for(self, fingerprint: Hashable) -> bool:
        """Discard what was compiled if ``fingerprint`` has changed, and return whether it is still the same."""
        if fingerprint != self._fingerprint:
            self._compiled.clear()
            self._fingerprint = fingerprint
            return False
        return True

    def is_compiled_for(self, minibatch: Minibatch) -> bool:
        """Return whether the function is compiled for the shape of ``minibatch``."""
        return _shape(minibatch.tensors()) in self._compiled

    def __call__(self, minibatch: Minibatch) -> Sequence[Tensor]:
        """Run the compiled function.

        Raises:
            CaptureError: it cannot be recorded or compiled; nothing has changed.
        """
        tensors = minibatch.tensors()
        shape = _shape(tensors)
        # A CUDA graph reads the data from the memory with which it was captured.
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
            compiled = as_cuda_graph(compiled, tensors, minibatch.num_shared, recording.outside)
        self.compilations += 1
        return compiled


def _shape(tensors: list[Tensor]) -> Hashable:
    return tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
