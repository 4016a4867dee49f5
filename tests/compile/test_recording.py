"""What a recording contains, what is restored afterwards, and what cannot be recorded."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from amortvi.compile.recording import record
from amortvi.errors import CaptureError

X = torch.arange(12.0).reshape(4, 3)
OTHER = X.flip(0) + 0.5


def test_each_run_reads_the_current_values_of_tensors_from_outside() -> None:
    closed_over, parameter = torch.ones(3), nn.Parameter(torch.full((3,), 2.0))

    def value_and_gradient(x: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            value = (x * closed_over * parameter).sum()
            return [value.detach(), *torch.autograd.grad(value, [parameter])]

    recording = record(value_and_gradient, [X], [OTHER])
    assert {id(tensor) for tensor in recording.outside} == {id(closed_over), id(parameter)}
    closed_over.fill_(3.0)
    parameter.detach().fill_(-1.0)
    for recorded, expected in zip(recording.replay([OTHER]), value_and_gradient(OTHER), strict=True):
        assert torch.allclose(recorded, expected)


def test_writes_of_the_function_are_restored_and_repeated_by_the_graph() -> None:
    counter, layer = torch.zeros(()), nn.BatchNorm1d(3)
    part = torch.zeros(4)[1:3]

    def function(x: Tensor) -> list[Tensor]:
        counter.add_(1)
        part.mul_(2).add_(x[0, :2])
        return [layer(x).sum()]

    recording = record(function, [X], [OTHER])
    assert counter == 0
    assert torch.equal(part, torch.zeros(2))
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert layer.num_batches_tracked == 0
    recording.replay([X])
    recording.replay([X])
    assert counter == 2
    assert torch.equal(part, 3 * X[0, :2])
    assert layer.num_batches_tracked == 2
    assert torch.allclose(layer.running_mean, X.mean(0) * (1 - 0.9**2))


def test_draws_are_those_of_the_function_including_unused_ones() -> None:
    def function(x: Tensor) -> list[Tensor]:
        first = torch.randn(4, 3)
        torch.rand(5)
        kept = nn.functional.dropout(x, 0.5)
        return [first * kept + torch._standard_gamma(x + 1)]

    before = torch.get_rng_state()
    recording = record(function, [X], [OTHER])
    assert torch.equal(torch.get_rng_state(), before)
    expected, after = function(X)[0], torch.rand(())
    torch.set_rng_state(before)
    assert torch.equal(recording.replay([X])[0], expected)
    assert torch.equal(torch.rand(()), after)


def test_constants_can_be_read_and_used_as_masks() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = x.new_zeros(())
        for position in torch.arange(3):
            total = total + x[int(position)].sum() * float(torch.tensor(0.5))
        mask = torch.ones(3, 3).tril() > 0
        return [total, (x[:3])[mask], x[..., torch.tensor([True, False, True])]]

    recording = record(function, [X], [OTHER])
    for mine, expected in zip(recording.replay([OTHER]), function(OTHER), strict=True):
        assert torch.equal(mine, expected)


CALLS, ALTERNATING = itertools.count(1), itertools.cycle([torch.exp, torch.sin])
READS = "reads the value of a tensor"
VARIES = "does not perform the same operations in every call"
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x * x.sum().item(), READS),
    "float": (lambda x: x * float(x.sum()), READS),
    "if": (lambda x: x if x.sum() > 0 else -x, READS),
    "numpy": (lambda x: x + torch.tensor(x.numpy().mean()), READS),
    "np.asarray": (lambda x: x * np.asarray(x).mean(), READS),
    "tolist": (lambda x: x * x.tolist()[0][0], READS),
    "a value that was drawn": (lambda x: x * torch.rand(()).item(), READS),
    "a value from outside": (lambda x: x * X.sum().item(), READS),
    "a mask of the data": (lambda x: x[x > 0], "size of its result depends"),
    "nonzero": (lambda x: x.nonzero(), "size of its result depends"),
    "unique": (lambda x: x.unique(), "size of its result depends"),
    "Python's random numbers": (lambda x: x * random.random(), VARIES),
    "NumPy's random numbers": (lambda x: x * np.random.default_rng().random(), VARIES),
    "a tensor of NumPy's random numbers": (lambda x: x * torch.from_numpy(np.random.default_rng().random(3)), VARIES),
    "a tensor made of Python's random numbers": (lambda x: x * torch.tensor(random.random()), VARIES),
    "a counter": (lambda x: x * min(1.0, next(CALLS) / 100), VARIES),
    "an exception": (lambda x: x.reshape(7), "fails while it is recorded: RuntimeError: .*shape"),
    "another operation in each call": (lambda x: next(ALTERNATING)(x), VARIES),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_graph_cannot_represent_is_refused_with_the_line(kind: str) -> None:
    body, reason = REFUSED[kind]
    with pytest.raises(CaptureError, match=reason) as caught:
        record(lambda x: [body(x).sum()], [X], [OTHER])
    assert "test_recording.py, line " in str(caught.value)
    assert "compile=False" in str(caught.value)


def test_code_in_a_folder_whose_name_starts_like_a_library_is_the_users() -> None:
    namespace: dict[str, Any] = {}
    file = f"{Path(torch.__file__).parent}_project/model.py"
    exec(compile("def body(x):\n    return [x * x.sum().item()]\n", file, "exec"), namespace)
    with pytest.raises(CaptureError, match=r"at model\.py, line 2"):
        record(namespace["body"], [X], [OTHER])


def test_the_error_names_the_last_site() -> None:
    def function(x: Tensor) -> list[Tensor]:
        pyro.sample("first", dist.Normal(0.0, 1.0))
        site = pyro.sample("second", dist.Normal(0.0, 1.0))
        return [x * site.item()]

    with pytest.raises(CaptureError, match=r"x \* site.item\(\).*The last Pyro site is 'second'"):
        record(function, [X], [OTHER])
