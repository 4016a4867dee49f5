"""A recording as a function: its differentiable part interpreted or compiled, then the updates of the optimizer."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, fx

from amortvi.compile.backends.interpreter import Run, interpret
from amortvi.compile.operations import as_elements, only_checks, updates_list, written_positions
from amortvi.compile.recording import Recording

__all__ = ["Backend", "executable", "flushes_denormals", "split"]

Backend: TypeAlias = Callable[[fx.GraphModule, Sequence[Tensor]], Run]
"""Turns a graph, with an example of its inputs, into a function of these inputs."""


def executable(recording: Recording, arguments: Sequence[Tensor], backend: Backend | None = None) -> Run:
    """Return a function of the recording's arguments; it reads and writes ``recording.outside`` in place.

    Args:
        recording: the recording.
        arguments: an example of its arguments.
        backend: compiles the graph; by default it is interpreted, which needs no compilation.
    """
    inputs = recording.inputs(arguments)
    outside = inputs[len(arguments) :]
    first, second = split(recording.graph, inputs)
    compute = interpret(first) if backend is None else backend(first, inputs)
    update = None if second is None else second.forward
    results = recording.results
    # Tensors of the inference mode cost less, but an optimizer outside the graph could not change gradients in place.
    mode = torch.inference_mode if backend is None and update is not None else torch.no_grad

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        # Moving averages of gradients that are zero decay to denormal numbers, with which a CPU computes a hundred times slower.
        # The caller's mode is read in each call, because it may have changed since the compilation.
        flushes = flushes_denormals()
        torch.set_flush_denormal(True)
        try:
            with mode():
                inputs = [*given, *outside]
                outputs = compute(inputs)
                return outputs[:results] if update is None else update(*outputs, *inputs)[:results]
        finally:
            torch.set_flush_denormal(flushes)

    return run


def flushes_denormals() -> bool:
    """Return whether this thread flushes denormal numbers to zero (`torch.set_flush_denormal`); takes less than 100 ns."""
    # Both factors are normal numbers. Python does not compute the product in advance, as it would with two literals.
    return sys.float_info.min * 0.5 == 0.0


def split(module: fx.GraphModule, inputs: Sequence[Tensor]) -> tuple[fx.GraphModule, fx.GraphModule | None]:
    """Split a graph before the first operation that changes a list of tensors, which is how optimizers update parameters.

    Such an operation updates all parameters at once, so neither an interpreter nor a compiler would make it faster. Operations
    without a result, which only raise errors, belong to the second part too, because an interpreter or compiler would drop them.
    The second graph takes the outputs of the first one and the inputs; it returns the outputs of the whole. It is valid for the
    memory of the given inputs only.
    """
    nodes = list(module.graph.nodes)
    start = next((number for number, node in enumerate(nodes) if _is(updates_list, node)), len(nodes) - 1)
    later = {node for number, node in enumerate(nodes) if number >= start or _is(only_checks, node)}
    if len(later) == 1:
        return module, None
    earlier = [node for node in nodes if node not in later]
    passed = [node for node in earlier if node.op != "placeholder" and not later.isdisjoint(node.users)]
    first, update = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in earlier:
        copies[node] = first.node_copy(node, copies.__getitem__)
    first.output([copies[node] for node in passed])
    copies = {node: update.placeholder(f"output_{number}") for number, node in enumerate(passed)}
    for node in nodes:
        if node.op == "placeholder" or node in later:
            copies[node] = update.node_copy(node, copies.__getitem__)
    _merge_updates(update)
    given = (copies[node] for node in nodes if node.op == "placeholder")
    counters = _advance_at_once(update, dict(zip(given, inputs, strict=True)))
    return fx.GraphModule(module, first), fx.GraphModule({**dict(module.named_buffers()), **counters}, update)


def _is(kind: Callable[[Any], bool], node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and kind(node.target)


def _merge_updates(graph: fx.Graph) -> None:
    """Combine the updates of several optimizers if they differ in nothing else; Pyro has one optimizer for each parameter."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if not all(_is(updates_list, call) for call in calls):
        return
    kinds = [_kind(node) for node in calls]
    period = len(dict.fromkeys(kinds))
    is_periodic = kinds == kinds[:period] * (len(kinds) // max(period, 1))
    if not is_periodic or not _are_independent(
        [calls[first : first + period] for first in range(0, len(calls), period or 1)]
    ):
        return
    for first in range(period):
        *others, last = calls[first::period]
        last.args = tuple(
            [item for node in (*others, last) for item in node.args[position]] if _is_list(argument) else argument
            for position, argument in enumerate(last.args)
        )
        for node in others:
            graph.erase_node(node)


def _advance_at_once(graph: fx.Graph, inputs: dict[fx.Node, Tensor]) -> dict[str, Tensor]:
    """Advance the counters of optimizers that are elements of one vector by adding to this vector, and return these vectors."""
    vectors: dict[str, Tensor] = {}
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._foreach_add_.Scalar or not inputs.keys() >= set(node.args[0]):
            continue
        vector = as_elements([inputs[counter] for counter in node.args[0]])
        if vector is not None:
            name = f"counters_{len(vectors)}"
            vectors[name] = vector
            with graph.inserting_before(node):
                graph.call_function(torch.ops.aten.add_.Scalar, (graph.get_attr(name), node.args[1]))
            graph.erase_node(node)
    return vectors


def _are_independent(optimizers: list[list[fx.Node]]) -> bool:
    """Return whether no optimizer uses a tensor that another one changes."""
    used = [{given for call in calls for given in call.all_input_nodes} for calls in optimizers]
    written = [{item for call in calls for item in _written(call)} for calls in optimizers]
    users = Counter(given for each in used for given in each)
    return all(users[item] == 1 for each in written for item in each)


def _written(call: fx.Node) -> list[fx.Node]:
    lists = [call.args[position] for position in written_positions(call.target) if position < len(call.args)]
    return [item for items in lists if _is_list(items) for item in items if isinstance(item, fx.Node)]


def _kind(call: fx.Node) -> Any:
    """Return what the calls that can be combined have in common."""
    others = tuple("list" if _is_list(argument) else argument for argument in call.args)
    return call.target, others, tuple(call.kwargs.items())


def _is_list(argument: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(argument, list | tuple)
