"""Passes that rewrite a recorded graph so that inductor compiles it correctly and into fast code."""

from __future__ import annotations

import copy

import torch
from torch import fx

__all__ = ["apply_passes"]

_aten = torch.ops.aten


def apply_passes(recorded: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Return a rewritten copy of a recorded graph, to be compiled for ``device``, that computes the same results."""
    module = copy.copy(recorded)
    module.graph = copy.deepcopy(recorded.graph)
    _expand_scaled_sums(module.graph)
    _split_foreach_norms(module.graph)
    if device.type == "cpu":
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
            user.replace_all_uses_with(norm)
            graph.erase_node(user)
        graph.erase_node(node)


def _separate_biases(graph: fx.Graph) -> None:
    """Replace each ``addmm`` by a matrix product minus the negative bias.

    For an ``addmm``, inductor first copies the bias into every row of the result, which takes as long as a small product does.
    It fuses a difference with the next operation, such as a ReLU; it would turn a sum back into ``addmm``.
    """
    for node in list(graph.nodes):
        if node.target is _aten.addmm.default and not node.kwargs:
            bias, first, second = node.args
            with graph.inserting_before(node):
                product = graph.call_function(_aten.mm.default, (first, second))
                negative = graph.call_function(_aten.neg.default, (bias,))
                node.replace_all_uses_with(graph.call_function(_aten.sub.Tensor, (product, negative)))
            graph.erase_node(node)
