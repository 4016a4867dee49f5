"""Graphs are verified as they run: what varies from call to call is found, with the line of the user's code."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from amortvi.compile import verified_graph
from amortvi.compile.backends.interpreter import Run
from amortvi.compile.verified_graph import MismatchError, VerifiedGraph, device_of
from amortvi.errors import CaptureError, VerificationError

X = torch.arange(12.0).reshape(4, 3)
Body = Callable[[Tensor], Tensor]


class Trained:
    """A loss, by default ``sum(weight x)``, and a step down its gradient."""

    def __init__(self, body: Body = lambda x: x) -> None:
        self.weight, self.body = nn.Parameter(torch.ones(3)), body
        self.python_steps = 0
        self.graph = VerifiedGraph(self.step, [X], [self.weight], num_losses=lambda: 1)

    def step(self, x: Tensor) -> list[Tensor]:
        self.python_steps += 1
        with torch.enable_grad():
            loss = (self.weight * self.body(x)).sum()
            (gradient,) = torch.autograd.grad(loss, [self.weight])
        with torch.no_grad():
            self.weight.sub_(gradient, alpha=0.01)
        return [loss.detach(), gradient]

    def run(self, x: Tensor = X) -> tuple[Sequence[Tensor], Sequence[Tensor] | None]:
        return self.graph.run([x], lambda: self.step(x)[:1])


def test_some_runs_are_audits_and_all_do_what_the_function_does() -> None:
    trained, alone = Trained(), Trained()
    audited = []
    for step in range(1, 20):
        before = trained.python_steps
        losses, others = trained.run(X + step)
        expected = alone.step(X + step)
        torch.testing.assert_close(losses[0], expected[0])
        torch.testing.assert_close(trained.weight, alone.weight)
        if trained.python_steps > before:
            audited.append(step)
            assert others is None
        else:
            torch.testing.assert_close(others, expected[1:])
    assert audited == [1, 2, 4, 8, 16]


CALLS, ALTERNATING = itertools.count(1), itertools.cycle([torch.exp, torch.sin, torch.cos])
NUMPY = np.random.default_rng(0)
VARIES = "does not perform the same operations in every call"
PYTHON = "random number generator of Python or NumPy"
VARYING: dict[str, tuple[Body, str]] = {
    "Python's random numbers": (lambda x: x * random.random(), VARIES),
    "NumPy's global random numbers": (lambda x: x * np.random.rand(), VARIES),  # noqa: NPY002
    "NumPy's random numbers": (lambda x: x * NUMPY.random(), VARIES),
    "a tensor of NumPy's random numbers": (
        lambda x: x * torch.from_numpy(NUMPY.random(3)),
        "is not the step|" + VARIES,
    ),
    "a tensor made of Python's random numbers": (lambda x: x * torch.tensor(random.random()), VARIES),
    "a counter": (lambda x: x * min(1.0, next(CALLS) / 100), VARIES),
    "another operation in each call": (lambda x: next(ALTERNATING)(x / 10), VARIES),
    "a branch at random": (lambda x: x if random.random() < 2 else -x, PYTHON),
}


@pytest.mark.parametrize("kind", VARYING)
def test_what_varies_from_call_to_call_is_refused_at_the_first_run(kind: str) -> None:
    body, reason = VARYING[kind]
    trained, alone = Trained(body), nn.Parameter(torch.ones(3))
    with pytest.raises(MismatchError) as caught:
        trained.run()
    mismatch = caught.value
    assert isinstance(mismatch.error, CaptureError)
    assert mismatch.unverified == 0
    with pytest.raises(CaptureError, match=reason):
        raise mismatch.error
    if reason == VARIES:
        assert "test_verified_graph.py, line " in str(mismatch.error)
    assert "compile=False" in str(mismatch.error)
    # The function itself has taken the step, once, and its loss is handed over.
    assert not torch.equal(trained.weight, alone)
    assert mismatch.losses[0].shape == ()


def test_what_begins_to_vary_is_found_by_a_later_audit() -> None:
    factor = [1.0]
    trained = Trained(lambda x: x * factor[0])
    for _ in range(5):
        trained.run()
    factor[0] = 2.0
    trained.run()
    trained.run()
    before = trained.weight.detach().clone()
    with pytest.raises(MismatchError) as caught:
        trained.run()
    assert caught.value.unverified == 3  # the runs 5, 6 and 7
    error = caught.value.error
    assert isinstance(error, VerificationError)
    with pytest.raises(VerificationError, match=r"its loss is .*received 1\.0 in one call and 2\.0 in the next"):
        raise error
    torch.testing.assert_close(trained.weight.detach(), before - 0.01 * 2 * X.sum(0))


def test_a_write_that_begins_later_is_found() -> None:
    state, writes = torch.ones(3), [False]

    def body(x: Tensor) -> Tensor:
        return x * (state.add_(1) if writes[0] else state)

    trained = Trained(body)
    trained.run()
    writes[0] = True
    with pytest.raises(MismatchError, match=r"aten\.mul\.Tensor in one call was aten\.add_\.Tensor in the next"):
        trained.run()


def test_an_exception_of_the_reference_passes_and_leaves_the_state() -> None:
    trained = Trained()
    before, state = trained.weight.detach().clone(), torch.get_rng_state()

    def fail() -> Any:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        trained.graph.run([X], fail)
    assert torch.equal(trained.weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    trained.run()


def test_a_graph_is_valid_until_a_value_that_was_read_changes() -> None:
    mask, scale, unread = torch.tensor([True, False, True]), torch.tensor(2.0), torch.ones(3)
    trained = Trained(lambda x: x * unread * torch.zeros(3).index_put((mask,), scale) * float(scale))
    assert trained.graph.is_valid()
    unread.mul_(2)
    trained.run()
    assert trained.graph.is_valid()
    for read in (mask, scale):
        graph = Trained(trained.body).graph
        assert graph.is_valid()
        read.logical_not_() if read is mask else read.mul_(2)
        assert not graph.is_valid()


@pytest.mark.parametrize("is_correct", [True, False])
def test_a_compiled_graph_is_compared_too(is_correct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
        return lambda given: module(*(given if is_correct else [given[0] * 1.5, *given[1:]]))

    monkeypatch.setattr(verified_graph, "compile_graph", backend)
    trained, alone = Trained(), Trained()
    trained.run()
    assert not trained.graph.is_compiled
    trained.graph.compile_when_due(lambda: [X], after=0)
    assert trained.graph.is_compiled
    if is_correct:
        for _ in range(10):
            trained.run()
        for _ in range(11):
            alone.step(X)
        torch.testing.assert_close(trained.weight, alone.weight)
    else:
        with pytest.raises(MismatchError, match="its loss is"):
            trained.run()


def test_the_device_is_that_of_an_accelerator_if_a_tensor_is_on_one() -> None:
    assert device_of([]) == device_of([X]) == torch.device("cpu")
    assert device_of([X, torch.empty(0, device="meta")]) == torch.device("meta")
