"""Passes that rewrite a recorded graph so that inductor compiles it correctly and into fast code."""

from __future__ import annotations

import copy

import torch
from torch import fx

__all__ = ["apply_passes"]

_aten = torch.ops.aten


def apply_passes(recorded: fx.GraphModule) -> fx.GraphModule:
    """Return a rewritten copy of a recorded graph that computes the same results."""
    module = copy.copy(recorded)
    module.graph = copy.deepcopy(recorded.graph)
    _expand_scaled_sums(module.graph)
    _split_foreach_norms(module.graph)
    _hoist_scalars(module.graph)
    _separate_biases(module.graph)
    for node in module.graph.nodes:
        node.meta.clear()  # the compiler computes its own metadata
    module.recompile()
    return module


_SCALED_SUMS = frozenset({_aten.add.Tensor, _aten.add_.Tensor, _aten.sub.Tensor, _aten.sub_.Tensor})


def _expand_scaled_sums(graph: fx.Graph) -> None:
    """Split each ``a + alpha b`` into a product and a sum: inductor (torch 2.13) loses ``alpha`` if ``a`` is a matrix product."""
    for node in graph.nodes:
        alpha = node.kwargs.get("alpha", 1)
        if node.target in _SCALED_SUMS and alpha != 1:
            first, second = node.args[:2]
            with graph.inserting_before(node):
                scaled = graph.call_function(_aten.mul.Tensor, (second, alpha))
            node.args, node.kwargs = (first, scaled), {}


def _split_foreach_norms(graph: fx.Graph) -> None:
    """Compute the norms of a list of tensors one by one.

    For a whole list, inductor (torch 2.13) calls back into Python; with the C++ wrapper, it crashes if the list has one tensor.
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


def _hoist_scalars(graph: fx.Graph) -> None:
    """Compute powers and other costly functions of scalars once, outside the loops over the tensors that use them.

    Inductor fuses operations on scalars into every loop that uses them. It would compute Adam's ``beta ** step`` once per 16
    parameters, which takes a third of the time of a small step. It does not fuse a reduction in this way, so each scalar is
    replaced by the sum of itself and seven zeros. Only scalars that depend on nothing but arguments and other such scalars can
    be computed first.
    """
    first = _scalars_of_arguments(graph)
    costly: set[fx.Node] = set()
    used: dict[torch.dtype, list[fx.Node]] = {}
    for node in first:
        if _is_costly(node) or any(argument in costly for argument in node.all_input_nodes):
            costly.add(node)
            # A sum of booleans would be an integer.
            if node.meta["val"].is_floating_point() and any(user not in first for user in node.users):
                used.setdefault(node.meta["val"].dtype, []).append(node)
    if not used:
        return
    # The first node that is not such a scalar; all of them are computed before it.
    start = next(node for node in graph.nodes if node.op != "placeholder" and node not in first)
    for node in first:
        start.prepend(node)
    for dtype, scalars in used.items():
        with graph.inserting_before(start):
            rows = [graph.call_function(_aten.view.default, (scalar, [1, 1])) for scalar in scalars]
            zeros = graph.call_function(
                _aten.zeros.default, ([7, len(rows)],), {"dtype": dtype, "device": scalars[0].meta["val"].device}
            )
            row = graph.call_function(_aten.cat.default, (rows, 1))
            column = graph.call_function(_aten.cat.default, ([row, zeros],))
            summed = graph.call_function(_aten.sum.dim_IntList, (column, [0]))
            for position, scalar in enumerate(scalars):
                hoisted = graph.call_function(_aten.select.int, (summed, 0, position))
                for user in [user for user in scalar.users if user not in first and user is not rows[position]]:
                    user.replace_input_with(scalar, hoisted)


def _scalars_of_arguments(graph: fx.Graph) -> dict[fx.Node, None]:
    """Return, in the order of the graph, the scalars that depend only on arguments and on other such scalars."""
    found: dict[fx.Node, None] = {}
    touched: set[fx.Node] = set()
    written: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        writes = getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        depends_on_scalars = inputs and all(_is_argument(given) or given in found for given in inputs)
        # A node that writes an argument can be moved up if no earlier node uses that argument, and a node that reads an argument
        # if no earlier node writes it.
        conflicts = touched if writes else written
        if _is_scalar(node) and depends_on_scalars and conflicts.isdisjoint(inputs):
            found[node] = None
            continue
        touched.update(inputs)
        if writes:
            written.update(inputs)
    return found


def _is_argument(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "placeholder" and isinstance(value, torch.Tensor) and value.dim() == 0


def _is_scalar(node: fx.Node) -> bool:
    value = node.meta.get("val")
    is_operation = node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    # The order of random draws must not change.
    is_drawn = is_operation and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return is_operation and not is_drawn and isinstance(value, torch.Tensor) and value.dim() == 0


_COSTLY = frozenset({"pow", "exp", "log", "sqrt", "rsqrt", "expm1", "log1p", "tanh", "sigmoid"})


def _is_costly(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        node.target.overloadpacket.__name__.rstrip("_") in _COSTLY
    )


def _separate_biases(graph: fx.Graph) -> None:
    """Replace each ``addmm`` on the CPU by a matrix product minus the negative bias.

    For an ``addmm``, inductor first copies the bias into every row of the result, which takes as long as a small product does.
    It fuses a difference with the next operation, such as a ReLU; it would turn a sum back into ``addmm``.
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
