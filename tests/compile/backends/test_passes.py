"""Graphs rewritten for the compiler compute the same, and without the operations that it compiles wrongly or slowly."""

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from amortvi.compile.backends.passes import apply_passes
from amortvi.compile.recording import record

CPU = torch.device("cpu")
X = torch.arange(12.0).reshape(4, 3) / 10
RATE, BIAS = torch.tensor(0.1), torch.tensor([1.0, -2.0, 0.5])
WEIGHT = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 2.0, 1.0]])
LISTS = [torch.ones(3), torch.full((2, 2), 2.0)]


def scaled_sums(x: Tensor) -> list[Tensor]:
    total = (x.mT @ x).add(WEIGHT, alpha=0.1)
    return [total, (x.mT @ x).sub(WEIGHT, alpha=3), (x.mT @ x).add_(total, alpha=-2)]


def linear_map(x: Tensor) -> list[Tensor]:
    return [torch.nn.functional.linear(x, WEIGHT, BIAS).relu(), torch.addmm(BIAS, x, WEIGHT, beta=0.5)]


def written_scalar(x: Tensor) -> list[Tensor]:
    before = x * RATE.exp()
    RATE.mul_(2)
    return [before, x * RATE.exp()]


def norms(x: Tensor) -> list[Tensor]:
    parameter = torch.nn.Parameter(X.clone())
    parameter.grad = 3 * x
    first = clip_grad_norm_(parameter, 1.0)
    return [first, parameter.grad, *torch._foreach_norm(LISTS), *torch._foreach_norm(LISTS, 1)]


FUNCTIONS = {each.__name__: each for each in (scaled_sums, linear_map, written_scalar, norms)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_is_computed(name: str) -> None:
    """Including what is written in place."""
    recording = record(FUNCTIONS[name], [X])
    graph = apply_passes(recording.graph, CPU)
    graph.graph.lint()
    start = [tensor.clone() for tensor in recording.outside]
    results = []
    for run in (FUNCTIONS[name], lambda x: graph(x, *recording.outside)[: recording.results]):
        with torch.no_grad():
            found = run(X)
            results.append([*found, *(tensor.clone() for tensor in recording.outside)])
            for tensor, value in zip(recording.outside, start, strict=True):
                tensor.copy_(value)
    torch.testing.assert_close(results[1], results[0])


def test_operations_that_the_compiler_does_not_handle_are_gone() -> None:
    def code(name: str, device: torch.device = CPU) -> str:
        return apply_passes(record(FUNCTIONS[name], [X]).graph, device).code

    assert "alpha" not in code("scaled_sums")
    assert "_foreach_norm" not in code("norms")
    assert code("linear_map").count("aten.addmm.") == 1  # with beta=0.5
    assert code("linear_map", torch.device("cuda")).count("aten.addmm.") == 2


def test_the_recorded_graph_keeps_its_operations() -> None:
    recording = record(linear_map, [X])
    before = recording.graph.code
    apply_passes(recording.graph, CPU)
    assert recording.graph.code == before
