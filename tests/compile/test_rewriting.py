"""What is written otherwise for the compiler computes the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from amortvi.compile.recording import record
from amortvi.compile.rewriting import rewritten

X = torch.arange(12.0).reshape(4, 3) / 10
COUNT, RATE, BIAS = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.1), torch.tensor([1.0, -2.0, 0.5])
WEIGHT = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 2.0, 1.0]])


def sums_with_a_factor(x: Tensor) -> list[Tensor]:
    return [(x.mT @ x).add(WEIGHT, alpha=0.1), (x.mT @ x).sub(WEIGHT, alpha=3)]


def a_linear_map(x: Tensor) -> list[Tensor]:
    return [torch.nn.functional.linear(x, WEIGHT, BIAS).relu()]


def powers_of_a_count(x: Tensor) -> list[Tensor]:
    COUNT.add_(1)
    correction = (1 - 0.999**COUNT).sqrt() * RATE
    return [x * correction + 0.9**COUNT, x - correction]


def a_number_read_before_and_after_it_is_written(x: Tensor) -> list[Tensor]:
    before = x * RATE.exp()
    RATE.mul_(2)
    return [before, x * RATE.exp()]


FUNCTIONS: tuple[Callable[[Tensor], list[Tensor]], ...] = (
    sums_with_a_factor,
    a_linear_map,
    powers_of_a_count,
    a_number_read_before_and_after_it_is_written,
)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_the_same_is_computed(function: Callable[[Tensor], list[Tensor]]) -> None:
    kept = COUNT.clone(), RATE.clone()
    recording = record(function, [X], [X + 1])
    expected = function(X)
    COUNT.copy_(kept[0])
    RATE.copy_(kept[1])
    found = rewritten(recording.graph)(X, *recording.outside)
    COUNT.copy_(kept[0])
    RATE.copy_(kept[1])
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted)


NUMBER = torch.tensor(0.3)


def numbers_first(x: Tensor) -> list[Tensor]:
    width = torch.nn.functional.softplus(NUMBER)
    return [x * width.pow(2) + width.log()]


def truth_values(x: Tensor) -> list[Tensor]:
    return [torch.where(NUMBER.exp() > 1, x, 2 * x)]


def draws(x: Tensor) -> list[Tensor]:
    first = torch.rand(2)
    second = torch.bernoulli(NUMBER.sigmoid())
    return [first, x * second * NUMBER.exp(), torch.rand(2)]


def norms(x: Tensor) -> list[Tensor]:
    parameter = torch.nn.Parameter(X.clone())
    parameter.grad = 3 * x
    return [clip_grad_norm_(parameter, 1.0), parameter.grad]


@pytest.mark.parametrize(
    "function", [numbers_first, truth_values, draws, norms], ids=lambda function: function.__name__
)
def test_the_same_is_computed_of_what_pyros_models_and_optimizers_do(
    function: Callable[[Tensor], list[Tensor]],
) -> None:
    """Single numbers, truth values, draws in their order, norms of several tensors."""
    recording = record(function, [X], [X + 1])
    graph = rewritten(recording.graph)
    graph.graph.lint()
    assert "_foreach_norm" not in graph.code
    for seed in range(20):
        torch.manual_seed(seed)
        expected = function(X)
        torch.manual_seed(seed)
        with torch.no_grad():
            found = graph(X, *recording.outside)
        for mine, wanted in zip(found, expected, strict=False):
            torch.testing.assert_close(mine, wanted)


def test_nothing_is_left_that_the_compiler_gets_wrong_or_slow() -> None:
    factors = rewritten(record(sums_with_a_factor, [X], [X + 1]).graph)
    assert not any(node.kwargs.get("alpha") for node in factors.graph.nodes)
    linear = rewritten(record(a_linear_map, [X], [X + 1]).graph)
    assert "addmm" not in linear.code
    # All the powers go through one sum, of which each gets its number.
    powers = rewritten(record(powers_of_a_count, [X], [X + 1]).graph)
    assert sum("sum" in str(node.target) for node in powers.graph.nodes) == 1
    rows = next(node for node in powers.graph.nodes if node.op == "placeholder")
    partners = {given for user in rows.users for given in user.all_input_nodes if given is not rows}
    assert {str(partner.target) for partner in partners} == {"aten.select.int"}
