"""What a recording contains, what is restored afterwards, and what cannot be recorded."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from amortvi.compile.recording import Recording, difference, record
from amortvi.errors import CaptureError

X = torch.arange(12.0).reshape(4, 3)
OTHER = X.flip(0) + 0.5


def operations(recording: Recording) -> list[str]:
    """Return the names of the operations in a graph."""
    return [str(node.target) for node in recording.graph.graph.nodes if node.op == "call_function"]


def test_each_run_reads_the_current_values_of_tensors_from_outside() -> None:
    closed_over, parameter = torch.ones(3), nn.Parameter(torch.full((3,), 2.0))

    def value_and_gradient(x: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            value = (x * closed_over * parameter).sum()
            return [value.detach(), *torch.autograd.grad(value, [parameter])]

    recording = record(value_and_gradient, [X])
    assert {id(tensor) for tensor in recording.outside} == {id(closed_over), id(parameter)}
    assert recording.written == ()
    closed_over.fill_(3.0)
    parameter.detach().fill_(-1.0)
    for recorded, expected in zip(recording.replay([OTHER]), value_and_gradient(OTHER), strict=True):
        assert torch.allclose(recorded, expected)


def test_modules_that_torch_compile_has_wrapped_are_recorded_operation_by_operation() -> None:
    layer = nn.Linear(3, 2).requires_grad_(False)

    def forward(x: Tensor) -> Tensor:
        hidden = layer(x)
        torch._dynamo.graph_break()  # the code after it would be compiled as a function of its own
        return hidden.tanh()

    compiled = torch.compile(forward, backend="eager")
    compiled(X)
    recording = record(lambda x: [compiled(x).detach()], [X])
    assert {"aten.addmm.default", "aten.tanh.default"} <= set(operations(recording))
    assert torch.equal(recording.replay([OTHER])[0], layer(OTHER).tanh())


def test_writes_of_the_function_are_restored_and_repeated_by_the_graph() -> None:
    counter, layer = torch.zeros(()), nn.BatchNorm1d(3)
    part = torch.zeros(4)[1:3]

    def function(x: Tensor) -> list[Tensor]:
        counter.add_(1)
        part.mul_(2).add_(x[0, :2])
        return [layer(x).sum()]

    recording = record(function, [X])
    inputs = [X, *recording.outside]
    expected = [counter, part, layer.running_mean, layer.running_var, layer.num_batches_tracked]
    assert {id(inputs[position]) for position in recording.written} == {id(tensor) for tensor in expected}
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
    recording = record(function, [X])
    assert torch.equal(torch.get_rng_state(), before)
    expected, after = function(X)[0], torch.rand(())
    torch.set_rng_state(before)
    assert torch.equal(recording.replay([X])[0], expected)
    assert torch.equal(torch.rand(()), after)


def test_a_failed_recording_restores_writes_and_the_random_state() -> None:
    counter, before = torch.zeros(()), torch.get_rng_state()

    def function(x: Tensor) -> list[Tensor]:
        counter.add_(torch.rand(()))
        raise ValueError("the user's own error")

    with pytest.raises(CaptureError, match="ValueError: the user's own error"):
        record(function, [X])
    assert counter == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_constants_can_be_read_and_used_as_masks() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = x.new_zeros(())
        for position in torch.arange(3):
            total = total + x[int(position)].sum() * float(torch.tensor(0.5))
        mask = torch.ones(3, 3).tril() > 0
        return [total, (x[:3])[mask], x[..., torch.tensor([True, False, True])]]

    recording = record(function, [X])
    assert recording.read == ()
    for mine, expected in zip(recording.replay([OTHER]), function(OTHER), strict=True):
        assert torch.equal(mine, expected)


MASK, SCALE, SHAPED = torch.tensor([True, False, True, True]), torch.tensor(2.0), torch.tensor(2.0)


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda x: x[MASK], MASK),
        (lambda x: x[MASK.nonzero()], MASK),
        (lambda x: x * SCALE.item(), SCALE),
        (lambda x: x * float(SCALE.exp() + 1), SCALE),
        (lambda x: x if SCALE > 0 else -x, SCALE),
        (lambda x: x * SCALE.tolist(), SCALE),
    ],
)
def test_tensors_from_outside_can_be_read_and_used_as_masks(function: Callable[[Tensor], Tensor], read: Tensor) -> None:
    recording = record(lambda x: [function(x)], [X])
    assert [(id(tensor), version) for tensor, version in recording.read] == [(id(read), read._version)]
    assert torch.equal(recording.replay([OTHER])[0], function(OTHER))


def test_assignment_to_a_constant_mask() -> None:
    def function(x: Tensor) -> list[Tensor]:
        copy = x.clone()
        copy[MASK] = x[0]
        return [copy]

    assert torch.equal(record(function, [X]).replay([OTHER])[0], function(OTHER)[0])


def test_what_is_constant_or_changes_nothing_is_not_computed() -> None:
    def function(x: Tensor) -> list[Tensor]:
        lower = torch.ones(3, 3).tril().log_softmax(-1)
        x.sin()  # unused
        return [x.detach().view(4, 3).expand(4, 3) @ lower]

    recording = record(function, [X])
    assert operations(recording) == ["aten.mm.default"]
    assert torch.equal(recording.replay([OTHER])[0], function(OTHER)[0])


def test_equal_operations_are_executed_once_unless_their_results_are_drawn_written_or_returned() -> None:
    weights = [torch.ones(3), torch.ones(3)]

    def function(x: Tensor) -> list[Tensor]:
        value = x.exp().sum() + x.exp().sum() + (x * 2.0).sum() + (x * 3.0).sum()
        changed = [x.sin(), x.sin()]
        changed[0].mul_(2)
        draws = [torch.randn(3), torch.randn(3)]
        # As the gradients of two parameters that are used in the same way, which the caller may clip in place.
        return [value, *changed, *draws, *((x * 5.0 + weights[0] * 0).sum(0).view(3) for _ in weights)]

    recording = record(function, [X])
    counts = Counter(operations(recording))
    assert counts["aten.exp.default"] == 1
    assert counts["aten.sin.default"] == counts["aten.randn.default"] == 2
    assert counts["aten.sum.dim_IntList"] == 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = recording.replay([OTHER])
        torch.manual_seed(0)
        expected = function(OTHER)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == len(found)


def test_each_run_writes_to_its_own_copy_of_a_constant() -> None:
    def function(x: Tensor) -> list[Tensor]:
        total = torch.tensor([1.0, 2.0, 3.0])
        total += x.sum(0)
        return [total]

    recording = record(function, [X])
    for _ in range(2):
        assert torch.equal(recording.replay([OTHER])[0], function(OTHER)[0])


def test_shapes_of_tensors_made_by_the_function_can_be_changed_in_place() -> None:
    def function(x: Tensor) -> list[Tensor]:
        column = x.sum(1, keepdim=True)
        column.squeeze_(1).mul_(2)
        return [column, column.unsqueeze_(0) + 1]

    for mine, expected in zip(record(function, [X]).replay([OTHER]), function(OTHER), strict=True):
        assert torch.equal(mine, expected)


def read_and_written(x: Tensor) -> Tensor:
    scale = SCALE.item()
    SCALE.mul_(0.9)
    return x * scale


class Special(Tensor):
    """A subclass, which may compute anything."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {})) + 1


SPECIAL, GENERATOR, PARAMETER = torch.ones(3).as_subclass(Special), torch.Generator(), nn.Parameter(torch.ones(3))
READS, SIZE = "reads the value of a tensor", "size of its result depends"
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x * x.sum().item(), READS),
    "float": (lambda x: x * float(x.sum()), READS),
    "if": (lambda x: x if x.sum() > 0 else -x, READS),
    "numpy": (lambda x: x + torch.tensor(x.numpy().mean()), READS),
    "np.asarray": (lambda x: x * np.asarray(x).mean(), READS),
    "tolist": (lambda x: x * x.tolist()[0][0], READS),
    "allclose": (lambda x: x * torch.allclose(x, X + 1), READS),
    "a value that was drawn": (lambda x: x * torch.rand(()).item(), READS),
    "a parameter": (lambda x: x * PARAMETER.sum().item(), READS),
    "a value from outside that is written": (read_and_written, READS),
    "a mask of the data": (lambda x: x[x > 0], SIZE),
    "nonzero": (lambda x: x.nonzero(), SIZE),
    "unique": (lambda x: x.unique(), SIZE),
    "a generator": (lambda x: x * torch.rand(3, generator=GENERATOR), "draws from a torch.Generator"),
    "a subclass": (lambda x: x * SPECIAL, "of a special kind"),
    "the shape of a tensor from outside": (
        lambda x: x * SHAPED.unsqueeze_(0),
        "changes the shape of a tensor from outside",
    ),
    "an exception": (lambda x: x.reshape(7), "fails while it is recorded: RuntimeError: .*shape"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_graph_cannot_represent_is_refused_with_the_line(kind: str) -> None:
    body, reason = REFUSED[kind]
    with pytest.raises(CaptureError, match=reason) as caught:
        record(lambda x: [body(x).sum()], [X])
    assert "test_recording.py, line " in str(caught.value)
    assert "compile=False" in str(caught.value)
    assert SCALE == 2
    if kind.startswith("the shape"):
        assert SHAPED.shape == ()


def test_code_in_a_folder_whose_name_starts_like_a_library_is_the_users() -> None:
    namespace: dict[str, Any] = {}
    file = f"{Path(torch.__file__).parent}_project/model.py"
    exec(compile("def body(x):\n    return [x * x.sum().item()]\n", file, "exec"), namespace)
    with pytest.raises(CaptureError, match=r"at model\.py, line 2"):
        record(namespace["body"], [X])


def test_the_error_names_the_last_site() -> None:
    def function(x: Tensor) -> list[Tensor]:
        pyro.sample("first", dist.Normal(0.0, 1.0))
        site = pyro.sample("second", dist.Normal(0.0, 1.0))
        return [x * site.item()]

    with pytest.raises(CaptureError, match=r"x \* site.item\(\).*The last Pyro site is 'second'"):
        record(function, [X])


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (torch.exp, torch.sin, r"aten\.exp\.default in one call was aten\.sin\.default"),
        (lambda x: x * 2.5, lambda x: x * 3.5, r"received 2\.5 in one call and 3\.5 in the next"),
        (
            lambda x: x @ torch.tensor([1.0, 2.0, 3.0]),
            lambda x: x @ torch.tensor([1.0, 2.0, 4.0]),
            r"\[1\.0, 2\.0, 3\.0\] in one call and \[1\.0, 2\.0, 4\.0\]",
        ),
        (torch.exp, lambda x: x.exp().exp(), "does not perform the same operations"),
    ],
    ids=["operation", "number", "constant tensor", "length"],
)
def test_a_difference_between_two_recordings_is_described(first: Any, second: Any, text: str) -> None:
    one, other = (record(lambda x, function=function: [function(x)], [X]) for function in (first, second))
    assert difference(one, one) is None
    with pytest.raises(CaptureError, match=text) as caught:
        raise difference(one, other) or AssertionError
    if "same operations" not in text:
        assert "test_recording.py, line" in str(caught.value)
