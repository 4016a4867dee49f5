"""Records what a function does to tensors as one graph, which then runs without the function.

Everything that Python does (tracing the model, message handlers, autograd's bookkeeping, the optimizer's loops) happens
once, while the graph is recorded; the graph holds the tensor operations that were left. A function may be recorded if it
does the same operations at each call, whatever the numbers in its tensors are. That is checked, not assumed: it is
recorded twice, with other arguments and other random numbers, and both recordings must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from amortvi._util.random import random_state
from amortvi.compile.refusals import refusal_of
from amortvi.compile.sandbox import NoReading, Sandbox, compare
from amortvi.errors import CaptureError

__all__ = ["Recording", "record"]

Function = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Recording:
    """A function as a graph.

    Args:
        graph: takes the function's arguments and then the tensors of ``outside``; returns the function's results, and
            after them what must be computed only so that as many random numbers are drawn.
        outside: the tensors that the function reads or writes without having been given them: parameters, buffers, the
            state of an optimizer, whatever a model closes over.
        results: how many of the outputs are the function's.
    """

    graph: fx.GraphModule
    outside: tuple[Tensor, ...]
    results: int


def record(function: Function, arguments: Sequence[Tensor], others: Sequence[Tensor]) -> Recording:
    """Record ``function``; whatever it writes into is put back, and no random numbers are drawn from the caller's state.

    Args:
        function: takes tensors, and returns some. What it does in place counts.
        arguments: an example of its arguments.
        others: other values of these, of the same shapes.

    Raises:
        CaptureError: the function cannot be a graph: it reads values of tensors, or its operations are not always the same.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> x = torch.tensor([1.0, 2.0])
        >>> recording = record(lambda x: [(weight * x).sum()], [x], [x + 1])
        >>> recording.outside[0] is weight, recording.graph(x, 3 * weight)
        (True, [tensor(9.)])
    """
    device = arguments[0].device
    with Sandbox() as sandbox:
        with random_state(0, device):
            first = _trace(function, arguments, sandbox)
        events = sandbox.take_events()
        with random_state(1, device):
            second = _trace(function, others, sandbox)
        compare(events, sandbox.take_events())
    return _lifted(first, _constants(first), _constants(second))


def _trace(function: Function, arguments: Sequence[Tensor], sandbox: Sandbox) -> fx.GraphModule:
    # Imported where it is used: it would make importing amortvi take longer.
    from torch.fx.experimental.proxy_tensor import make_fx

    def watched(*tensors: Tensor) -> list[Tensor]:
        with sandbox.site, NoReading(sandbox):
            return list(function(*tensors))

    try:
        return make_fx(watched, tracing_mode="real")(*(argument.detach() for argument in arguments))
    except Exception as error:
        raise refusal_of(error, sandbox.site.name) from error


def _constants(module: fx.GraphModule) -> dict[str, Tensor]:
    """The tensors that a recorded function took from outside, and those that it made of Python numbers, by name."""
    names = {str(node.target): None for node in module.graph.nodes if node.op == "get_attr"}
    return {name: getattr(module, name) for name in names}


def _lifted(module: fx.GraphModule, found: dict[str, Tensor], again: dict[str, Tensor]) -> Recording:
    """Make the tensors from outside arguments of the graph, so that the graph meets their values of the day."""
    graph = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {}
    nodes = list(module.graph.nodes)
    for node in nodes:
        if node.op == "placeholder":
            renamed[node] = graph.node_copy(node)
    outside: dict[int, Tensor] = {}
    placed: dict[int, fx.Node] = {}
    # A tensor that is another one in the second recording was made on the way, of Python numbers or of NumPy's.
    made = {name for name, tensor in found.items() if tensor is not again.get(name)}
    for name, tensor in found.items():
        if name not in made and id(tensor) not in placed:
            outside[id(tensor)], placed[id(tensor)] = tensor, graph.placeholder(f"outside_{len(placed)}")
            placed[id(tensor)].meta["val"] = tensor
    constants: dict[str, Tensor] = {}
    unused: list[fx.Node] = []
    results: list[Any] = []
    for node in nodes:
        if node.op == "get_attr":
            name = str(node.target)
            if name not in made:
                renamed[node] = placed[id(found[name])]
                continue
            constants[name] = _checked_constant(found[name], again.get(name))
        if node.op == "output":
            results = [renamed[result] for result in node.args[0]]
        elif node.op != "placeholder" and not _is_bookkeeping(node):
            renamed[node] = graph.node_copy(node, lambda old: renamed[old])
            if _draws(node) and not node.users:
                unused.append(renamed[node])
    graph.output([*results, *unused])
    return Recording(fx.GraphModule(constants, graph), tuple(outside.values()), len(results))


def _checked_constant(value: Tensor, again: Tensor | None) -> Tensor:
    if again is None or not torch.equal(value, again):
        raise CaptureError(
            "the step cannot be recorded as one graph: a tensor is made of other numbers at each call, outside torch. Draw "
            "random numbers with torch, and keep numbers that change in tensors, or leave compiling out with compile=False."
        )
    return value.detach()


def _draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers; a compiler may drop one whose result no one uses, an eager step does not."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_bookkeeping(node: fx.Node) -> bool:
    """Whether a node only tells the profiler something."""
    return node.op == "call_function" and str(node.target).startswith("profiler.")
