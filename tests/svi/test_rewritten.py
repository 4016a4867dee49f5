"""What Pyro's models and optimizers put into graphs, and rewriting once made wrong: single numbers, truth values, draws."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from amortvi.engine.recording import record
from amortvi.engine.rewriting import rewritten

X = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
NUMBER = torch.tensor(0.3)


def starts_with_numbers(x):
    width = torch.nn.functional.softplus(NUMBER)
    return [x * width.pow(2) + width.log()]


def truth_values(x):
    return [torch.where(NUMBER.exp() > 1, x, 2 * x)]


def draws(x):
    first = torch.rand(2)
    second = torch.bernoulli(NUMBER.sigmoid())
    return [first, x * second * NUMBER.exp(), torch.rand(2)]


def norms(x):
    parameter = torch.nn.Parameter(X.clone())
    parameter.grad = 3 * x
    return [clip_grad_norm_(parameter, 1.0), parameter.grad]


@pytest.mark.parametrize("function", [starts_with_numbers, truth_values, draws, norms], ids=lambda f: f.__name__)
def test_a_rewritten_graph_computes_the_same(function):
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
