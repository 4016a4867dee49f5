"""Recording of a function as a graph of tensor operations, which then runs without the function.

All Python code (tracing the model, message handlers, the bookkeeping of autograd, the loops of the optimizer) runs only while
the graph is recorded. A function can be recorded if it performs the same operations in every call, whatever the values in its
tensors. To verify this, it is recorded twice, with different arguments and random numbers, and the recordings must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from amortvi._util.random import random_state
from amortvi.compile.capture_errors import capture_error_from
from amortvi.compile.sandbox import RefuseReads, Sandbox, check_same_operations
from amortvi.errors import CaptureError

__all__ = ["Recording", "record"]

Function = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Recording:
    """A function as a graph.

    Args:
        graph: takes the function's arguments and then the tensors in ``outside``. It returns the function's results, and then
            unused random draws, which keep the random state the same.
        outside: the tensors that the function reads or writes but does not receive as arguments: parameters, buffers, the
            state of an optimizer, and tensors in closures.
        results: the number of outputs that are the function's results.
    """

    graph: fx.GraphModule
    outside: tuple[Tensor, ...]
    results: int

    def replay(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Run the graph operation by operation, without compiling it, and return the function's results."""
        with torch.no_grad():
            outputs = self.graph(*arguments, *(tensor.detach() for tensor in self.outside))
        return list(outputs[: self.results])


def record(function: Function, arguments: Sequence[Tensor], others: Sequence[Tensor]) -> Recording:
    """Record ``function``, restore the tensors that it writes, and leave the caller's random state unchanged.

    Args:
        function: takes tensors and returns tensors; it may also change tensors in place.
        arguments: an example of its arguments.
        others: other values of the same shapes.

    Raises:
        CaptureError: the function reads values of tensors, or does not perform the same operations in every call.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> x = torch.tensor([1.0, 2.0])
        >>> recording = record(lambda x: [(weight * x).sum()], [x], [x + 1])
        >>> recording.outside[0] is weight, recording.replay([x])
        (True, [tensor(3.)])
    """
    device = arguments[0].device
    with Sandbox() as sandbox:
        with random_state(0, device):
            first = _trace(function, arguments, sandbox)
        operations = sandbox.take_operations()
        with random_state(1, device):
            second = _trace(function, others, sandbox)
        check_same_operations(operations, sandbox.take_operations())
    return _lift_constants(first, _constants(first), _constants(second))


def _trace(function: Function, arguments: Sequence[Tensor], sandbox: Sandbox) -> fx.GraphModule:
    # Imported here because they would make importing amortvi slower.
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    def guarded(*tensors: Tensor) -> list[Tensor]:
        with sandbox.last_site, RefuseReads(sandbox):
            return list(function(*tensors))

    try:
        # Without a shared mode, make_fx creates one per operation to describe its result, which takes half of the time.
        with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
            return make_fx(guarded, tracing_mode="real")(*(argument.detach() for argument in arguments))
    except Exception as error:  # the user's code runs here and may raise anything
        raise capture_error_from(error, sandbox.last_site.name) from error


def _constants(module: fx.GraphModule) -> dict[str, Tensor]:
    """Return, by name, the tensors in a traced function that are not arguments: from outside, or made of Python numbers."""
    names = {str(node.target): None for node in module.graph.nodes if node.op == "get_attr"}
    return {name: getattr(module, name) for name in names}


def _lift_constants(module: fx.GraphModule, found: dict[str, Tensor], again: dict[str, Tensor]) -> Recording:
    """Make the tensors from outside the function arguments of the graph, so that it reads their current values."""
    graph = fx.Graph()
    renamed: dict[fx.Node, fx.Node] = {}
    nodes = list(module.graph.nodes)
    for node in nodes:
        if node.op == "placeholder":
            renamed[node] = graph.node_copy(node)
    outside: dict[int, Tensor] = {}
    placeholders: dict[int, fx.Node] = {}
    # A tensor that is a different object in the second recording was made during the call, from Python or NumPy numbers.
    made = {name for name, tensor in found.items() if tensor is not again.get(name)}
    for name, tensor in found.items():
        if name not in made and id(tensor) not in placeholders:
            outside[id(tensor)], placeholders[id(tensor)] = tensor, graph.placeholder(f"outside_{len(placeholders)}")
            placeholders[id(tensor)].meta["val"] = tensor
    constants: dict[str, Tensor] = {}
    unused: list[fx.Node] = []
    results: list[Any] = []
    for node in nodes:
        if node.op == "get_attr":
            name = str(node.target)
            if name not in made:
                renamed[node] = placeholders[id(found[name])]
                continue
            constants[name] = _checked_constant(found[name], again.get(name))
        if node.op == "output":
            results = [renamed[result] for result in node.args[0]]
        elif node.op != "placeholder" and not _is_profiling(node):
            renamed[node] = graph.node_copy(node, lambda old: renamed[old])
            if _draws(node) and not node.users:
                unused.append(renamed[node])
    graph.output([*results, *unused])
    return Recording(fx.GraphModule(constants, graph), tuple(outside.values()), len(results))


def _checked_constant(value: Tensor, again: Tensor | None) -> Tensor:
    if again is None or not torch.equal(value, again):
        raise CaptureError(
            "the step cannot be recorded as a graph: it makes a tensor of numbers from outside PyTorch that differ in each call. "
            "Draw random numbers with torch, and keep numbers that change in tensors, or use compile=False."
        )
    return value.detach()


def _draws(node: fx.Node) -> bool:
    """Return whether a node draws random numbers. A compiler would drop draws that nothing uses; an eager step performs them."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_profiling(node: fx.Node) -> bool:
    return node.op == "call_function" and str(node.target).startswith("profiler.")
