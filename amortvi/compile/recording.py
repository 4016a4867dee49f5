"""Recording of a function as a graph of tensor operations, which then runs without the function.

All Python code (tracing the model, message handlers, the bookkeeping of autograd, the loops of the optimizer) runs only while
the graph is recorded. A function can be recorded if it performs the same operations in every call, whatever the values in its
tensors; that is verified while the graph is used, by `Audit`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from amortvi._util.random import random_state
from amortvi.compile.capture_errors import VARIES, capture_error, capture_error_from
from amortvi.compile.operations import Call, Value, leaves, replaced
from amortvi.compile.recorder import Reads, Recorder
from amortvi.errors import CaptureError

__all__ = ["Function", "Recording", "difference", "record"]

Function = Callable[..., Sequence[Tensor]]

_LARGEST_QUOTED = 8
"""The size up to which a constant tensor is quoted in messages; larger ones are compared by their sums."""


@dataclass(frozen=True)
class Recording:
    """A function as a graph.

    Args:
        graph: takes the function's arguments and then the tensors in ``outside``. It returns the function's results, and then
            unused random draws, which keep the random state the same.
        outside: the tensors that the function reads or writes but does not receive as arguments: parameters, buffers, the
            state of an optimizer, and tensors in closures.
        results: the number of outputs that are the function's results.
        read: the tensors whose values Python has read, with their versions; with another version, the graph is invalid.
        written: the positions of the graph's inputs that the function changes in place.
    """

    graph: fx.GraphModule
    outside: tuple[Tensor, ...]
    results: int
    read: tuple[tuple[Tensor, int], ...]
    written: tuple[int, ...]

    def inputs(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs of the graph for the given arguments."""
        return [tensor.detach() for tensor in (*arguments, *self.outside)]

    def replay(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Run the graph operation by operation and return the function's results."""
        with torch.no_grad():
            outputs = self.graph(*self.inputs(arguments))
        return list(outputs[: self.results])


def record(function: Function, arguments: Sequence[Tensor], seed: int = 0) -> Recording:
    """Run ``function`` once, record it, and restore the tensors that it writes and the random state.

    Args:
        function: takes tensors and returns tensors; it may also change tensors in place.
        arguments: an example of its arguments.
        seed: the seed with which it is run.

    Raises:
        CaptureError: the function reads values that differ from call to call, or fails.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> x = torch.tensor([1.0, 2.0])
        >>> recording = record(lambda x: [(weight * x).sum()], [x])
        >>> recording.outside[0] is weight, recording.replay([x])
        (True, [tensor(3.)])
    """
    # Other tensor objects than the caller's, because the function may also refer to these from outside.
    given = [argument.detach() for argument in arguments]
    device = given[0].device if given else None
    with random_state(seed, device), Recorder(given) as recorder:
        try:
            with recorder.last_site, Reads(recorder):
                results = [recorder.position(result) for result in function(*given)]
        except Exception as error:  # the user's code runs here and may raise anything
            raise capture_error_from(error, recorder.last_site.name) from error
    read = recorder.read()
    inputs = [*range(len(given)), *recorder.outside]
    written = tuple(number for number, position in enumerate(inputs) if recorder.is_written(position))
    outside = tuple(recorder.tensors[position] for position in recorder.outside)
    return Recording(_Builder(recorder).build(inputs, results), outside, len(results), read, written)


class _Builder:
    """Makes a graph of the recorded operations that are needed; what is constant is not computed again."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._constants: dict[str, Tensor] = {}
        self._computed: dict[str | None, fx.Node] = {}
        self._returned: set[int] = set()  # memory

    def build(self, inputs: list[int], results: list[int]) -> fx.GraphModule:
        self._returned = set(map(self._recorder.memory, results))
        for number, position in enumerate(inputs):
            self._nodes[position] = self._graph.placeholder(f"tensor_{number}")
        unused = []
        for call, is_used in self._needed(results):
            args, kwargs = replaced((call.args, call.kwargs), Value, lambda value: self._node(value.position))
            # Models often compute a term twice, and so does the gradient.
            key = repr((call.function, args, kwargs)) if self._is_pure(call) else None
            node = self._computed.get(key)
            if node is None:
                node = self._graph.call_function(call.function, args, kwargs)
                node.meta["line"] = call.line
                if key is not None:
                    self._computed[key] = node
            self._set_results(call.result, node)
            if call.draws and not is_used:
                unused += [value.position for value in leaves(call.result, Value)]
        self._graph.output([self._node(position) for position in [*results, *unused]])
        return fx.GraphModule(self._constants, self._graph)

    def _needed(self, results: list[int]) -> list[tuple[Call, bool]]:
        """Return the operations that matter, and whether a later one uses their results."""
        used = {position for position in results if not self._recorder.is_literal(position)}
        needed = []
        for call in reversed(self._recorder.calls):
            made = {value.position for value in leaves(call.result, Value)}
            is_used = not used.isdisjoint(made)
            if is_used or call.draws or call.writes:
                needed.append((call, is_used))
                given = (value.position for value in leaves((call.args, call.kwargs), Value))
                used.update(position for position in given if not self._recorder.is_literal(position))
        return needed[::-1]

    def _is_pure(self, call: Call) -> bool:
        """Return whether one execution of an operation can stand for others with the same arguments.

        Its result must not be part of what the graph returns: the caller may change that in place.
        """
        used = leaves((call.args, call.kwargs, call.result), Value)
        if call.draws or call.writes or any(self._recorder.is_written(each.position) for each in used):
            return False
        made = leaves(call.result, Value)
        return self._returned.isdisjoint(self._recorder.memory(each.position) for each in made)

    def _node(self, position: int) -> fx.Node:
        node = self._nodes.get(position)
        if node is None:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = self._recorder.initial.get(position, self._recorder.tensors[position]).detach()
            node = self._nodes[position] = self._graph.get_attr(name)
            if not self._recorder.is_literal(position):
                # Each run writes to its own copy.
                node = self._nodes[position] = self._graph.call_function(torch.ops.aten.clone.default, (node,))
        return node

    def _set_results(self, result: Any, node: fx.Node) -> None:
        if isinstance(result, Value):
            self._nodes[result.position] = node
        elif isinstance(result, tuple | list):
            for number, part in enumerate(result):
                if isinstance(part, Value):
                    self._nodes[part.position] = self._graph.call_function(operator.getitem, (node, number))


def difference(first: Recording, second: Recording) -> CaptureError | None:
    """Return an error that describes the first difference between two recordings of a function, if there is one."""
    for a, b in zip(_operations(first), _operations(second), strict=False):
        (name, constants, line), (other_name, other_constants, _) = a, b
        if name != other_name:
            return capture_error(f"{name} in one call was {other_name} in the next: {VARIES}", line)
        for constant, other in zip(constants, other_constants, strict=False):
            if constant != other:
                return capture_error(f"{name} received {constant} in one call and {other} in the next: {VARIES}", line)
    if len(first.graph.graph.nodes) != len(second.graph.graph.nodes):
        return capture_error(VARIES, None)
    return None


def _operations(recording: Recording) -> Iterator[tuple[str, list[str], str | None]]:
    """Yield the name of each operation, its arguments other than computed tensors, and the user's line."""
    for node in recording.graph.graph.nodes:
        if node.op == "call_function":
            constants = [_text(leaf, recording.graph) for leaf in tree_leaves((node.args, node.kwargs))]
            yield str(node.target), constants, node.meta.get("line")


def _text(leaf: Any, module: fx.GraphModule) -> str:
    if not isinstance(leaf, fx.Node):
        return repr(leaf)
    if leaf.op != "get_attr":
        return "a tensor"
    constant = getattr(module, str(leaf.target))
    return (
        repr(constant.tolist()) if constant.numel() <= _LARGEST_QUOTED else f"a constant of sum {float(constant.sum())}"
    )
