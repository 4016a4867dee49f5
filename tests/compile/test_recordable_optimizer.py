"""A recorded optimizer does for many steps what the optimizer itself does, while its learning rate changes."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.optimizer import register_optimizer_step_pre_hook

from amortvi.compile.executable import executable
from amortvi.compile.operations import as_elements
from amortvi.compile.recordable_optimizer import (
    RecordableOptimizer,
    fuse,
    is_recordable,
    needs_closure,
    optimizer_options,
    optimizer_tensors,
    share_counters,
    take_step,
)
from amortvi.compile.recording import record

Make = Callable[..., optim.Optimizer]


def two_groups(parameters: list[nn.Parameter], lr: float) -> optim.Optimizer:
    return optim.Adam(
        [{"params": parameters[:1], "lr": 3 * lr}, {"params": parameters[1:], "betas": (0.5, 0.9)}], lr=lr
    )


PLAIN = "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD"
OPTIMIZERS: dict[str, Make] = {
    **{name: getattr(optim, name) for name in PLAIN.split()},
    "Adam with amsgrad": partial(optim.Adam, amsgrad=True, weight_decay=0.1),
    "AdamW that maximizes": partial(optim.AdamW, maximize=True),
    "foreach Adam": partial(optim.Adam, foreach=True),
    "Nesterov": partial(optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adagrad with decay": partial(optim.Adagrad, weight_decay=0.1, lr_decay=0.1),
    "centered RMSprop": partial(optim.RMSprop, centered=True, momentum=0.9),
    "two groups": two_groups,
}
FUSED = {
    "Adagrad",
    "Adam",
    "AdamW",
    "SGD",
    "Adam with amsgrad",
    "AdamW that maximizes",
    "foreach Adam",
    "Nesterov",
    "two groups",
}
FUSED |= {"Adagrad with decay"}


def made(make: Make, dtype: torch.dtype = torch.float64) -> tuple[optim.Optimizer, list[nn.Parameter]]:
    parameters = [nn.Parameter(torch.linspace(-1.0, 1.0, size, dtype=dtype)) for size in (3, 4, 1)]
    return make(parameters, lr=0.01), parameters


def step(optimizer: optim.Optimizer, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_recorded_optimizer_equals_the_eager_one(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    eager, expected = made(OPTIMIZERS[name], dtype)
    optimizer, parameters = made(OPTIMIZERS[name], dtype)
    assert is_recordable(optimizer)
    draw = [torch.randn(parameter.shape, dtype=dtype, generator=generator) for parameter in parameters]
    step(eager, expected, draw)
    step(optimizer, parameters, draw)  # the first step makes the state
    options = optimizer_options(optimizer)
    recordable = RecordableOptimizer(optimizer)
    recordable.count_in_double()
    recordable.write_rates()

    def function(*gradients: Tensor) -> list[Tensor]:
        with recordable.recording():
            step(optimizer, parameters, list(gradients))
        return []

    recording = record(function, draw)
    assert optimizer_options(optimizer) == options
    assert not torch.compiler.is_compiling()
    assert ("_fused_" in recording.graph.code) == (name in FUSED)
    outside = {id(tensor) for tensor in recording.outside}
    assert outside >= {id(tensor) for tensor in (*parameters, *optimizer_tensors(optimizer))} or name in {
        "Rprop",
        "ASGD",
    }
    run = executable(recording, draw)
    for count in range(100):
        for group in (*eager.param_groups, *optimizer.param_groups):
            group["lr"] *= 0.98 if count % 2 else 1.01
        recordable.write_rates()
        draw = [torch.randn(parameter.shape, dtype=dtype, generator=generator) for parameter in parameters]
        step(eager, expected, draw)
        run(draw)
    # 100 updates of 0.01, some of them with a factor that the eager optimizer keeps in single precision: 100 * 0.01 * 6e-8.
    for mine, reference in zip(parameters, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5 if dtype is torch.float32 else 1e-7)
    # An eager step can follow: the state has the form that it expects.
    step(eager, expected, draw)
    step(optimizer, parameters, draw)
    for mine, reference in zip(parameters, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5 if dtype is torch.float32 else 1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_without_the_wrappers_of_torch_is_the_same(name: str) -> None:
    optimizer, parameters = made(OPTIMIZERS[name])
    other, others = made(OPTIMIZERS[name])
    other.step = Mock(side_effect=other.step)  # a schedule replaces the method in the same way
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter, same in zip(parameters, others, strict=True):
            parameter.grad = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            same.grad = parameter.grad.clone()
        take_step(optimizer)
        take_step(other)
    assert other.step.call_count == 3
    for parameter, same in zip(parameters, others, strict=True):
        assert torch.equal(parameter, same)


def test_shared_counters_count_as_before() -> None:
    (optimizer, parameters), (other, others) = made(optim.Adam), made(optim.Adam)
    gradients = [torch.ones_like(parameter) for parameter in parameters]
    step(optimizer, parameters, gradients)
    step(other, others, gradients)
    for _ in range(2):  # the second time, they are shared already
        share_counters([optimizer])
        counters = optimizer_counters(optimizer)
        assert as_elements(counters) is not None
    step(optimizer, parameters, gradients)
    step(other, others, gradients)
    assert [float(counter) for counter in counters] == [2, 2, 2]
    assert optimizer_counters(optimizer)[0] is counters[0]
    assert all(map(torch.equal, parameters, others))
    loaded, _ = made(optim.Adam)
    loaded.load_state_dict(optimizer.state_dict())
    assert [float(counter) for counter in optimizer_counters(loaded)] == [2, 2, 2]


def optimizer_counters(optimizer: optim.Optimizer) -> list[Tensor]:
    return [state["step"] for state in optimizer.state.values()]


class Subclass(optim.Adam):
    """May do anything in Python."""


def hooked(parameters: Any, lr: float) -> optim.Optimizer:
    optimizer = optim.Adam(parameters, lr=lr)
    optimizer.register_step_pre_hook(lambda *given: None)
    return optimizer


def test_an_optimizer_is_not_recordable_while_hooks_of_all_optimizers_exist() -> None:
    optimizer, _ = made(optim.Adam)
    handle = register_optimizer_step_pre_hook(lambda *given: None)
    try:
        assert not is_recordable(optimizer)
    finally:
        handle.remove()
    assert is_recordable(optimizer)


@pytest.mark.parametrize("make", [Subclass, hooked, optim.LBFGS, optim.Adafactor])
def test_other_optimizers_are_not_recordable(make: Make) -> None:
    optimizer, _ = made(make)
    assert not is_recordable(optimizer)
    assert needs_closure(optimizer) == (make is optim.LBFGS)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (optim.Adam, True),
        (optim.AdamW, True),
        (optim.Adagrad, True),
        (partial(optim.SGD, momentum=0.9), True),
        (partial(optim.Adam, fused=False), False),
        (partial(optim.Adam, fused=True), True),
        (partial(optim.Adam, foreach=True), None),
        (partial(optim.Adam, foreach=False), None),
        (partial(optim.Adam, differentiable=True), None),
        (lambda parameters, lr: optim.Adam(parameters, lr=torch.tensor(lr), capturable=False), None),
        (Subclass, None),
        (optim.RMSprop, "none"),
    ],
)
def test_an_optimizer_is_fused_unless_the_user_has_chosen(make: Make, expected: Any) -> None:
    optimizer, parameters = made(make)
    fuse(optimizer)
    assert optimizer.param_groups[0].get("fused", "none") == expected
    if expected is not None:
        step(optimizer, parameters, [torch.ones_like(parameter) for parameter in parameters])


def test_options_other_than_the_rate_are_constants_of_a_recording() -> None:
    optimizer, _ = made(optim.Adam)
    group, before = optimizer.param_groups[0], optimizer_options(optimizer)
    group["lr"] = 0.5
    assert optimizer_options(optimizer) == before
    group["betas"] = (0.8, 0.9)
    assert optimizer_options(optimizer) != before
    group["betas"], group["lr"] = (0.9, 0.999), torch.tensor(0.5)
    assert optimizer_options(optimizer) != before


def test_optimizers_with_equal_rates_share_the_tensor() -> None:
    rates: dict[Any, Tensor] = {}
    for lr in (0.1, 0.1, 0.2):
        RecordableOptimizer(optim.Adam([nn.Parameter(torch.ones(2))], lr=lr), rates)
    assert len(rates) == 2
