"""Tensors that a model reads from its surroundings: replaced, changed in place, or of another shape."""

import operator
import types

import torch

from tests.compile.svi.probes.programs import AUDITED, COMPILES, WATCHED, Program, observe, probe


@probe(COMPILES)
def tensor_changed_in_place():
    scale = torch.tensor(1.0)
    return Program(lambda x: observe(x, scale), change=lambda: scale.fill_(2.0))


@probe(COMPILES)
def element_of_a_tensor_changed_in_place():
    scales = torch.ones(3)
    return Program(lambda x: observe(x, scales[1]), change=lambda: operator.setitem(scales, 1, 2.0))


@probe(COMPILES)
def view_of_a_tensor_changed_in_place():
    scales = torch.ones(3)
    view = scales[:1]
    return Program(lambda x: observe(x, view), change=lambda: scales.fill_(2.0))


@probe(COMPILES)
def tensor_in_a_dict_changed_in_place():
    state = {"scale": torch.tensor(1.0)}
    return Program(lambda x: observe(x, state["scale"]), change=lambda: state["scale"].copy_(torch.tensor(2.0)))


@probe(WATCHED)
def tensor_replaced_in_a_dict():
    state = {"scale": torch.tensor(1.0)}
    return Program(lambda x: observe(x, state["scale"]), change=lambda: state.update(scale=torch.tensor(2.0)))


@probe(WATCHED)
def tensor_replaced_in_a_list():
    scales = [torch.tensor(1.0)]
    return Program(lambda x: observe(x, scales[0]), change=lambda: operator.setitem(scales, 0, torch.tensor(2.0)))


@probe(WATCHED)
def tensor_replaced_in_a_long_list():
    scales = [torch.tensor(1.0)] * 150
    return Program(lambda x: observe(x, scales[120]), change=lambda: operator.setitem(scales, 120, torch.tensor(2.0)))


@probe(WATCHED)
def tensor_replaced_in_an_attribute():
    state = types.SimpleNamespace(scale=torch.tensor(1.0))
    return Program(lambda x: observe(x, state.scale), change=lambda: setattr(state, "scale", torch.tensor(2.0)))


@probe(WATCHED)
def tensor_replaced_in_a_closure():
    scale = torch.tensor(1.0)

    def change():
        nonlocal scale
        scale = torch.tensor(2.0)

    return Program(lambda x: observe(x, scale), change=change)


@probe(WATCHED)
def tensor_replaced_in_a_global():
    globals()["TENSOR"] = torch.tensor(1.0)
    return Program(lambda x: observe(x, TENSOR), change=lambda: globals().update(TENSOR=torch.tensor(2.0)))  # noqa: F821


@probe(WATCHED)
def tensor_replaced_by_a_number():
    state = {"scale": torch.tensor(1.0)}
    return Program(lambda x: observe(x, state["scale"]), change=lambda: state.update(scale=2.0))


@probe(WATCHED)
def data_of_a_tensor_replaced():
    scale = torch.tensor(1.0)
    return Program(lambda x: observe(x, scale), change=lambda: setattr(scale, "data", torch.tensor(2.0)))


@probe(WATCHED)
def memory_of_a_tensor_replaced():
    scale = torch.tensor(1.0)
    return Program(lambda x: observe(x, scale), change=lambda: scale.set_(torch.tensor(2.0)))


@probe(WATCHED)
def tensors_swapped():
    scale, other = torch.tensor(1.0), torch.tensor(2.0)
    return Program(lambda x: observe(x, scale), change=lambda: torch.utils.swap_tensors(scale, other))


@probe(WATCHED)
def shape_of_a_tensor():
    scales = torch.ones(1, 2)
    return Program(lambda x: observe(x, float(scales.shape[0])), change=lambda: scales.t_())


@probe(WATCHED)
def strides_of_a_tensor():
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    return Program(lambda x: observe(x, weights.sum(0) / 4 @ torch.tensor([1.0, 0.0])), change=lambda: weights.t_())


@probe(WATCHED)
def size_of_a_tensor():
    scales = torch.ones(1)
    return Program(lambda x: observe(x, scales.sum()), change=lambda: scales.resize_(2).fill_(1.0))


@probe(WATCHED)
def attribute_of_a_tensor():
    state = torch.zeros(1)
    state.scale = 1.0
    return Program(lambda x: observe(x, state.scale), change=lambda: setattr(state, "scale", 2.0))


@probe(AUDITED)
def version_of_a_tensor():
    state = torch.zeros(1)
    return Program(lambda x: observe(x, 1.0 + state._version), change=lambda: state.zero_())


@probe(WATCHED)
def number_of_a_tensor():
    scale = torch.tensor(1.0)
    return Program(lambda x: observe(x, scale.item()), change=lambda: scale.fill_(2.0))


@probe(WATCHED)
def branch_on_a_tensor():
    wide = torch.tensor(False)
    return Program(lambda x: observe(x, 2.0 if wide else 1.0), change=lambda: wide.fill_(True))


@probe(WATCHED)
def index_from_a_tensor():
    index, scales = torch.tensor(0), [1.0, 2.0]
    return Program(lambda x: observe(x, scales[index]), change=lambda: index.fill_(1))


@probe(WATCHED)
def truth_of_a_comparison_in_a_loop():
    limit = torch.tensor(1.0)

    def model(x):
        scale = 0.0
        while scale < limit:
            scale += 1.0
        observe(x, scale)

    return Program(model, change=lambda: limit.fill_(2.0))


@probe(WATCHED)
def tensor_of_a_type_that_changes():
    state = {"scale": torch.ones(2)}
    return Program(lambda x: observe(x, state["scale"]), change=lambda: state.update(scale=2 * torch.ones(2).double()))


@probe(WATCHED)
def sparse_tensor():
    state = {"scale": torch.ones(2).to_sparse()}
    return Program(
        lambda x: observe(x, state["scale"].to_dense()),
        change=lambda: state.update(scale=torch.full((2,), 2.0).to_sparse()),
    )
