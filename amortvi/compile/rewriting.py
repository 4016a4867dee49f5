"""What is written otherwise in a recorded graph, so that inductor makes the right and the fast thing of it."""

from __future__ import annotations

import copy

import torch
from torch import fx

__all__ = ["rewritten"]

_aten = torch.ops.aten


def rewritten(recorded: fx.GraphModule) -> fx.GraphModule:
    """Return the graph, rewritten; what it computes stays the same.

    Args:
        recorded: a recording.
    """
    module = copy.copy(recorded)
    module.graph = copy.deepcopy(recorded.graph)
    keep_factors(module.graph)
    take_norms_apart(module.graph)
    compute_numbers_once(module.graph)
    add_biases_apart(module.graph)
    for node in module.graph.nodes:
        node.meta.clear()  # what the recording noted of its tensors; the compiler works that out anew
    module.recompile()
    return module


_SCALED_SUMS = frozenset({_aten.add.Tensor, _aten.add_.Tensor, _aten.sub.Tensor, _aten.sub_.Tensor})


def keep_factors(graph: fx.Graph) -> None:
    """Write each ``a + alpha b`` as a product and a sum.

    Inductor (torch 2.13) loses the factor where ``a`` is a product of matrices: the decay of weights, for one.
    """
    for node in graph.nodes:
        alpha = node.kwargs.get("alpha", 1)
        if node.target in _SCALED_SUMS and alpha != 1:
            first, second = node.args[:2]
            with graph.inserting_before(node):
                scaled = graph.call_function(_aten.mul.Tensor, (second, alpha))
            node.args, node.kwargs = (first, scaled), {}


def take_norms_apart(graph: fx.Graph) -> None:
    """Take the norms of several tensors one by one.

    Inductor (torch 2.13) has no kernel for all at once: it goes back to Python, and from C++ crashes there if the list has one.
    """
    for node in list(graph.nodes):
        if node.target is not _aten._foreach_norm.Scalar or node.kwargs:
            continue
        tensors, *order = node.args
        for user in list(node.users):
            tensor = tensors[user.args[1]]
            with graph.inserting_before(node):
                norm = graph.call_function(_aten.linalg_vector_norm.default, (tensor, *(order or [2])))
            norm.meta = dict(user.meta)
            user.replace_all_uses_with(norm)
            graph.erase_node(user)
        graph.erase_node(node)


def compute_numbers_once(graph: fx.Graph) -> None:
    """Compute powers and the like of single numbers first, instead of in the loops over the tensors that they meet.

    Inductor moves what is done to numbers into each loop that uses them, and so would take Adam's ``beta ** step`` anew for
    every 16 parameters: a third of the time of a small step. Here they go through one sum, of each number and seven zeros,
    which it does not move. Only numbers that are made of arguments and other numbers can be computed first.
    """
    first = _numbers_of_arguments(graph)
    costly: set[fx.Node] = set()
    used: dict[torch.dtype, list[fx.Node]] = {}
    for node in first:
        if _is_costly(node) or any(argument in costly for argument in node.all_input_nodes):
            costly.add(node)
            # Sums of truth values are integers.
            if node.meta["val"].is_floating_point() and any(user not in first for user in node.users):
                used.setdefault(node.meta["val"].dtype, []).append(node)
    if not used:
        return
    # Not one of them, or those that use it would come before it.
    start = next(node for node in graph.nodes if node.op != "placeholder" and node not in first)
    for node in first:
        start.prepend(node)
    for dtype, numbers in used.items():
        with graph.inserting_before(start):
            rows = [graph.call_function(_aten.view.default, (number, [1, 1])) for number in numbers]
            zeros = graph.call_function(
                _aten.zeros.default, ([7, len(rows)],), {"dtype": dtype, "device": numbers[0].meta["val"].device}
            )
            row = graph.call_function(_aten.cat.default, (rows, 1))
            column = graph.call_function(_aten.cat.default, ([row, zeros],))
            summed = graph.call_function(_aten.sum.dim_IntList, (column, [0]))
            for position, number in enumerate(numbers):
                once = graph.call_function(_aten.select.int, (summed, 0, position))
                for user in [user for user in number.users if user not in first and user is not rows[position]]:
                    user.replace_input_with(number, once)


def _numbers_of_arguments(graph: fx.Graph) -> dict[fx.Node, None]:
    """The single numbers that depend on nothing but arguments and other such numbers, in their order."""
    found: dict[fx.Node, None] = {}
    touched: set[fx.Node] = set()
    written: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        writes = getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        depends_on_numbers = inputs and all(_is_argument(given) or given in found for given in inputs)
        # What writes into an argument may go first only if no one has looked at it before, and what looks at one only if no one
        # has written into it.
        in_the_way = touched if writes else written
        if _is_number(node) and depends_on_numbers and in_the_way.isdisjoint(inputs):
            found[node] = None
            continue
        touched.update(inputs)
        if writes:
            written.update(inputs)
    return found


def _is_argument(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "placeholder" and isinstance(value, torch.Tensor) and value.dim() == 0


def _is_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    is_operation = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    # Random numbers are drawn in their order.
    is_drawn = is_operation and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return is_operation and not is_drawn and isinstance(value, torch.Tensor) and value.dim() == 0


def add_biases_apart(graph: fx.Graph) -> None:
    """Write a linear map as a product of matrices, from which the negative bias is subtracted, on the CPU.

    There the bias of ``addmm`` is first copied into every row of the result, which for small matrices takes as long as the
    product; a difference is merged into what comes after, such as a ReLU. A sum would be made an ``addmm`` again.
    """
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.target is _aten.addmm.default and not node.kwargs and value.device.type == "cpu":
            bias, first, second = node.args
            with graph.inserting_before(node):
                product = graph.call_function(_aten.mm.default, (first, second))
                negative = graph.call_function(_aten.neg.default, (bias,))
                node.replace_all_uses_with(graph.call_function(_aten.sub.Tensor, (product, negative)))
            graph.erase_node(node)


_COSTLY = frozenset({"pow", "exp", "log", "sqrt", "rsqrt", "expm1", "log1p", "tanh", "sigmoid"})


def _is_costly(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        node.target.overloadpacket.__name__.rstrip("_") in _COSTLY
    )
