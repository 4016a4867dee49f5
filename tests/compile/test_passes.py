"""Graphs rewritten for the compiler compute the same, and without the operations that it compiles wrongly or slowly."""

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from amortvi.compile.passes import apply_passes
from amortvi.compile.recording import record

X = torch.arange(12.0).reshape(4, 3) / 10
COUNT, RATE, BIAS = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.1), torch.tensor([1.0, -2.0, 0.5])
WEIGHT = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 2.0, 1.0]])
SCALAR = torch.tensor(0.3)


def scaled_sums(x: Tensor) -> list[Tensor]:
    return [(x.mT @ x).add(WEIGHT, alpha=0.1), (x.mT @ x).sub(WEIGHT, alpha=3)]


def linear_map(x: Tensor) -> list[Tensor]:
    return [torch.nn.functional.linear(x, WEIGHT, BIAS).relu()]


def powers_of_a_count(x: Tensor) -> list[Tensor]:
    COUNT.add_(1)
    correction = (1 - 0.999**COUNT).sqrt() * RATE
    return [x * correction + 0.9**COUNT, x - correction]


def written_scalar(x: Tensor) -> list[Tensor]:
    before = x * RATE.exp()
    RATE.mul_(2)
    return [before, x * RATE.exp()]


def scalars_only(x: Tensor) -> list[Tensor]:
    width = torch.nn.functional.softplus(SCALAR)
    return [x * width.pow(2) + width.log()]


def booleans(x: Tensor) -> list[Tensor]:
    return [torch.where(SCALAR.exp() > 1, x, 2 * x)]


def draws(x: Tensor) -> list[Tensor]:
    first = torch.rand(2)
    second = torch.bernoulli(SCALAR.sigmoid())
    return [first, x * second * SCALAR.exp(), torch.rand(2)]


def norms(x: Tensor) -> list[Tensor]:
    parameter = torch.nn.Parameter(X.clone())
    parameter.grad = 3 * x
    return [clip_grad_norm_(parameter, 1.0), parameter.grad]


FUNCTIONS = {
    each.__name__: each
    for each in (scaled_sums, linear_map, powers_of_a_count, written_scalar, scalars_only, booleans, draws, norms)
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_is_computed(name: str) -> None:
    """Including what is written in place, and the draws in their order."""
    function = FUNCTIONS[name]
    recording = record(function, [X], [X + 1])
    graph = apply_passes(recording.graph)
    graph.graph.lint()
    start = [tensor.clone() for tensor in recording.outside]
    for seed in range(20):
        results = []
        for run in (function, lambda x: graph(x, *recording.outside)[: recording.results]):
            torch.manual_seed(seed)
            with torch.no_grad():
                found = run(X)
                results.append([*found, *(tensor.clone() for tensor in recording.outside)])
                for tensor, value in zip(recording.outside, start, strict=True):
                    tensor.copy_(value)
        torch.testing.assert_close(results[1], results[0])


def test_operations_that_the_compiler_does_not_handle_are_gone() -> None:
    factors = apply_passes(record(scaled_sums, [X], [X + 1]).graph)
    assert not any(node.kwargs.get("alpha") for node in factors.graph.nodes)
    assert "addmm" not in apply_passes(record(linear_map, [X], [X + 1]).graph).code
    assert "_foreach_norm" not in apply_passes(record(norms, [X], [X + 1]).graph).code


def test_powers_of_a_count_are_computed_once() -> None:
    """All of them go through one sum, and everything that multiplies data is an element of that sum."""
    powers = apply_passes(record(powers_of_a_count, [X], [X + 1]).graph)
    assert sum("sum" in str(node.target) for node in powers.graph.nodes) == 1
    x = next(node for node in powers.graph.nodes if node.op == "placeholder")
    partners = {given for user in x.users for given in user.all_input_nodes if given is not x}
    assert {str(partner.target) for partner in partners} == {"aten.select.int"}
