"""A recording as a function: the optimizer's updates are split off and merged, and denormal numbers are flushed."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from amortvi.compile.backends.interpreter import Run
from amortvi.compile.executable import executable, flushes_denormals
from amortvi.compile.recording import record

X = torch.tensor([1.0, 2.0])
A, B, C = torch.ones(2), torch.full((2,), 2.0), torch.full((2,), 3.0)
add, mul = torch._foreach_add_, torch._foreach_mul_


class Counted(TorchDispatchMode):
    """Counts the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    before = [tensor.clone() for tensor in (A, B, C)]
    yield
    for tensor, value in zip((A, B, C), before, strict=True):
        tensor.copy_(value)


def outcome(run: Run) -> list[Tensor]:
    """Return the results of two runs and everything written, and restore what was written."""
    before = [tensor.clone() for tensor in (A, B, C)]
    found = [each.clone() for x in (X, X + 1) for each in run([x])]
    found += [tensor.clone() for tensor in (A, B, C)]
    for tensor, value in zip((A, B, C), before, strict=True):
        tensor.copy_(value)
    return found


def loss_and_updates(x: Tensor) -> list[Tensor]:
    gradient = (x * A).exp()
    torch.rand(2)  # unused
    add([A], [gradient], alpha=-0.1)
    add([B], [gradient + x], alpha=-0.1)
    return [gradient.sum(), A * 2]


@pytest.mark.parametrize("backend", [False, True])
def test_the_backend_gets_what_precedes_the_updates(backend: bool) -> None:
    seen: list[fx.GraphModule] = []

    def keep(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
        seen.append(module)
        assert len(inputs) == sum(node.op == "placeholder" for node in module.graph.nodes)
        return lambda given: module(*given)

    recording = record(loss_and_updates, [X])
    run = executable(recording, [X], keep if backend else None)
    torch.manual_seed(0)
    mine, state = outcome(run), torch.get_rng_state()
    torch.manual_seed(0)
    expected = outcome(lambda given: loss_and_updates(*given))
    assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    if backend:
        assert "exp" in seen[0].code
        assert "_foreach" not in seen[0].code


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [0, 2]])
def test_counters_that_are_the_elements_of_a_vector_are_advanced_together(order: list[int]) -> None:
    vector = torch.zeros(4)[1:]
    counters = [vector[number] for number in order]

    def advance(x: Tensor) -> list[Tensor]:
        torch._foreach_add_(counters, 1)
        return [x + 0]

    run = executable(record(advance, [X]), [X])
    assert vector.tolist() == [0, 0, 0]
    with Counted() as counted:
        run([X])
        run([X])
    assert vector.tolist() == [2 * (number in order) for number in range(3)]
    assert ("_foreach_add_" in counted.found) == (order != [0, 1, 2])


def test_a_function_without_updates_is_not_split() -> None:
    run = executable(record(lambda x: [x.exp(), A * x], [X]), [X])
    assert torch.equal(run([X + 1])[0], (X + 1).exp())


def merged(x: Tensor) -> None:
    y = x + 1
    add([A], [x], alpha=2)
    add([B, C], [x, y], alpha=2)


def merged_in_turn(x: Tensor) -> None:
    for tensor in (A, B, C):
        mul([tensor], 0.5)
        add([tensor], [x])


def of_other_options(x: Tensor) -> None:
    add([A], [x], alpha=2)
    add([B], [x], alpha=3)


def of_the_same_tensor(x: Tensor) -> None:
    add([A], [x])
    mul([A], 2)
    add([A], [x])
    mul([A], 2)


def not_periodic(x: Tensor) -> None:
    add([A], [x])
    mul([A], 2)
    add([B], [x])


def that_read_each_other(x: Tensor) -> None:
    for tensor, other in ((A, B), (B, A)):
        add([tensor], [x])
        mul([tensor], [other])


def with_other_operations(x: Tensor) -> None:
    add([A], [x])
    A.sin_()
    add([B], [A])


@pytest.mark.parametrize(
    ("updates", "calls"),
    [
        (merged, 1),
        (merged_in_turn, 2),
        (of_other_options, 2),
        (of_the_same_tensor, 4),
        (not_periodic, 3),
        (that_read_each_other, 4),
        (with_other_operations, 2),
    ],
)
def test_updates_of_several_optimizers_are_merged_where_that_changes_nothing(
    updates: Callable[[Tensor], None], calls: int
) -> None:
    def function(x: Tensor) -> list[Tensor]:
        x = x.exp()
        updates(x)
        return [x]

    run = executable(record(function, [X]), [X])
    mine, expected = outcome(run), outcome(lambda given: function(*given))
    assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
    with Counted() as counted:
        run([X])
    assert sum(count for name, count in counted.found.items() if name.startswith("_foreach")) == calls


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("when_made", [False, True])
@pytest.mark.parametrize("when_run", [False, True])
def test_a_run_flushes_denormals_and_restores_the_mode_in_which_it_was_called(
    when_run: bool, when_made: bool, fails: bool
) -> None:
    small = torch.full((4,), 1e-20)
    try:
        torch.set_flush_denormal(when_made)
        # 1e-40 is a denormal number in single precision.
        run = executable(record(lambda x: [x * x], [small]), [small])
        torch.set_flush_denormal(when_run)
        if fails:
            with pytest.raises((TypeError, RuntimeError)):
                run([small, small])
        else:
            assert (run([small])[0] == 0).all()
        assert flushes_denormals() == when_run
        assert bool((small * small)[0] == 0) == when_run
    finally:
        torch.set_flush_denormal(False)
