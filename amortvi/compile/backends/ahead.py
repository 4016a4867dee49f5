"""Compilation of a graph in another process, while this one continues to train with the interpreted graph.

The other process compiles the graph as this one would, and so fills the cache of inductor on disk. The compilation in this
process then finds everything there, and takes a few seconds instead of up to twenty.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from typing import IO, Any

import torch
from torch import Tensor, fx

from amortvi.compile.backends.inductor import compile_graph

__all__ = ["CompilationAhead", "read_graph", "write_graph"]

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from amortvi.compile.backends.ahead import main; main(threads={threads})"
)
_PATIENCE = 300
"""Seconds after which this process no longer waits for the other one."""


class CompilationAhead:
    """A process that compiles a graph. It ends when this object is deleted.

    Args:
        module: the graph.
        inputs: an example of its inputs.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        program = _PROGRAM.format(path=sys.path, threads=torch.get_num_threads())
        with tempfile.TemporaryFile() as file:
            write_graph(module, inputs, file)
            file.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        self._end = weakref.finalize(self, _end, self._process)

    def wait(self) -> None:
        """Wait for the process. If it fails or takes too long, this process compiles the graph from the start."""
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._end()


def main(threads: int) -> None:
    """Compile the graph that standard input describes."""
    if hasattr(os, "nice"):
        os.nice(10)  # training comes first
    torch.set_num_threads(threads)
    compile_graph(*read_graph(sys.stdin.buffer))


def write_graph(module: fx.GraphModule, inputs: Sequence[Tensor], file: IO[bytes]) -> None:
    """Write a graph, and the shapes of its inputs. The pickle of a `GraphModule` would run its random draws when it is read."""
    pickler = _Pickler(file)
    nodes = list(module.graph.nodes)
    constants = {node.target: getattr(module, node.target) for node in nodes if node.op == "get_attr"}
    pickler.dump((constants, [(t.shape, t.stride(), t.dtype) for t in inputs], len(nodes)))
    for node in nodes:
        pickler.dump((node.op, node.target, node.args, node.kwargs, node.name))


def read_graph(file: IO[bytes]) -> tuple[fx.GraphModule, list[Tensor]]:
    """Return the graph that `write_graph` has written, and an example of its inputs."""
    unpickler = _Unpickler(file)
    constants, inputs, count = unpickler.load()
    for _ in range(count):
        node = unpickler.graph.create_node(*unpickler.load())
        unpickler.nodes[node.name] = node
    return fx.GraphModule(constants, unpickler.graph), [
        torch.empty_strided(shape, stride, dtype=dtype).zero_() for shape, stride, dtype in inputs
    ]


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        """Describe what cannot be pickled: nodes of the graph, by their names, and operations of torch."""
        if isinstance(value, fx.Node):
            return "node", value.name
        if isinstance(value, torch._ops.OpOverload):
            return "operation", str(value)
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}

    def persistent_load(self, described: tuple[str, str]) -> Any:
        """Return what `_Pickler.persistent_id` has described."""
        kind, name = described
        if kind == "node":
            return self.nodes[name]
        namespace, packet, overload = name.split(".")
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
