"""A recorded graph, run operation by operation by the interpreter of TorchScript, which spends a microsecond on each."""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from amortvi.compile.operations import updates_list

__all__ = ["Run", "interpret"]

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A function of one sequence of tensors, the inputs of a graph; it returns the outputs."""

_SUPPORTED = sys.version_info < (3, 14)
"""TorchScript does not support newer versions of Python; the graph's own Python code then computes the same, but slower."""


def interpret(module: fx.GraphModule) -> Run:
    """Return a function that runs ``module`` on a list of its inputs; its results are those of the module, bit for bit.

    Example:
        >>> import torch
        >>> from torch import fx
        >>> graph = fx.Graph()
        >>> x = graph.placeholder("x")
        >>> _ = graph.output([graph.call_function(torch.ops.aten.mul.Tensor, (x, 2))])
        >>> interpret(fx.GraphModule({}, graph))([torch.ones(2)])
        [tensor([2., 2.])]
    """
    constants = {node.name: getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"}
    try:
        script = _compile(_source(module.graph, list(constants))) if _SUPPORTED else None
    except (RuntimeError, _NotSupportedError):  # such as an operation with complex numbers
        script = None
    if script is None:
        return lambda inputs: module(*inputs)
    values = list(constants.values())

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        # The optimizer of TorchScript takes as long as a hundred steps, twice, and gains nothing.
        before = torch._C._get_graph_executor_optimize()
        torch._C._set_graph_executor_optimize(False)
        try:
            return script(*inputs, *values)
        finally:
            torch._C._set_graph_executor_optimize(before)

    return run


def _compile(source: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.CompilationUnit(source).step


class _NotSupportedError(Exception):
    """TorchScript cannot express a value or an operation."""


def _source(graph: fx.Graph, constants: Sequence[str]) -> str:
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    lines = [f"def step({', '.join([*inputs, *constants])}):"]
    for node in graph.nodes:
        if node.op == "output":
            lines.append(f"return {_literal(node.args[0], 'List[Tensor]')}")
        elif node.target is operator.getitem:
            lines.append(f"{node.name} = {node.args[0]}[{node.args[1]}]")
        elif node.op == "call_function":
            lines.append(f"{node.name} = {_call(node)}")
    return "\n    ".join(lines) + "\n"


def _call(node: fx.Node) -> str:
    schema = cast(torch._ops.OpOverload, node.target)._schema
    if updates_list(node.target) or not schema.returns:
        raise _NotSupportedError(schema.name)  # TorchScript would remove the operation, because nothing uses its result
    kinds = {argument.name: str(argument.type) for argument in schema.arguments}
    positional = [_literal(value, kind) for value, kind in zip(node.args, kinds.values(), strict=False)]
    named = [f"{name}={_literal(value, kinds[name])}" for name, value in node.kwargs.items()]
    namespace, name = schema.name.split("::")
    return f"torch.ops.{namespace}.{name}({', '.join([*positional, *named])})"


def _literal(value: Any, kind: str) -> str:
    """Return the source of an argument whose type in the schema of the operation is ``kind``."""
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, list | tuple):
        items = ", ".join(_literal(item, kind.removeprefix("List[").removesuffix("]")) for item in value)
        return f"torch.jit.annotate({kind}, [{items}])" if kind.startswith("List[") else f"[{items}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    if isinstance(value, int) and not isinstance(value, bool) and kind in ("float", "Optional[float]"):
        return repr(float(value))
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.layout | torch.memory_format):
        return repr(value)
    raise _NotSupportedError(repr(value))
