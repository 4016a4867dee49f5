"""The compiled step in a fit: optimizers, schedules, reproducibility, numbers that are not finite, how often it compiles."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import CaptureError, NonFiniteError
from tests.training.steps.test_compiled_is_eager import assert_equal, numbers

X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, -0.5]]), scale=0.7).simulate(40, seed=0)


def estimator(**options: Any) -> avi.AmortizedVI:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
    model = avi.models.VAE(decoder, 2, likelihood="normal")
    return avi.AmortizedVI(model, avi.encoders.MLP(3, [6], dropout=0.2), **options)


def fitted(vi: avi.AmortizedVI | None = None, **options: Any) -> avi.AmortizedVI:
    options = {
        "epochs": 10,
        "batch_size": 16,
        "lr": 0.01,
        "dtype": torch.float64,
        "seed": 0,
        "compile": True,
        **options,
    }
    return (vi or estimator()).fit(X.to(options["dtype"]), progress=False, **options)


def compilations(vi: avi.AmortizedVI) -> int:
    compiled = [engine._compiled for engine in (vi._trainer._updates, vi._trainer._estimations)]
    return sum(each.program.compilations for each in compiled if each is not None)


def with_momentum(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=0.1)


def decayed(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters, lr: kind(parameters, lr=lr, weight_decay=0.1)


class Counting(torch.optim.SGD):
    """Does something else at each step, in Python."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 0.01 / self.steps
        return super().step(closure)


def with_hook(parameters: Any, lr: float) -> torch.optim.Optimizer:
    made = torch.optim.Adam(parameters, lr=lr)
    made.register_step_post_hook(lambda optimizer, args, kwargs: optimizer.param_groups[0].update(lr=0.002))
    return made


def two_groups(parameters: Any, lr: float) -> torch.optim.Optimizer:
    parameters = list(parameters)
    return torch.optim.Adam([{"params": parameters[:2], "lr": lr / 10}, {"params": parameters[2:]}], lr=lr)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **{
        kind.__name__: decayed(kind)
        for kind in (
            torch.optim.ASGD,
            torch.optim.Adadelta,
            torch.optim.Adafactor,
            torch.optim.Adagrad,
            torch.optim.Adam,
            torch.optim.AdamW,
            torch.optim.Adamax,
            torch.optim.NAdam,
            torch.optim.RAdam,
            torch.optim.RMSprop,
        )
    },
    "Rprop": torch.optim.Rprop,
    "SGD": torch.optim.SGD,
    "SGD with momentum": with_momentum,
    "fused Adam with amsgrad": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True, amsgrad=True),
    "AdamW for each": lambda p, lr: torch.optim.AdamW(p, lr=lr, foreach=True),
    "two groups": two_groups,
    "one that counts in Python": Counting,
    "one with a hook": with_hook,
}


# The fused kernel counts in single precision: 1 - beta ** step has a relative error of 6e-8 / (0.001 step), half of which goes
# into updates of 0.01; summed over 30 steps that is 1.2e-6.
EXACT = {"fused Adam with amsgrad": 5e-6}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.usefixtures("not_compiled")
def test_any_optimizer_is_eager(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    assert_equal(fitted(optimizer=optimizer), fitted(optimizer=optimizer, compile=False), EXACT.get(name, 1e-9))


SLOW = {name: pytest.mark.slow for name in OPTIMIZERS if name not in ("Adam", "SGD with momentum")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in OPTIMIZERS])
def test_any_optimizer_is_eager_when_compiled(name: str) -> None:
    options = {"optimizer": OPTIMIZERS[name], "batch_size": 40, "epochs": 20}
    assert_equal(fitted(**options), fitted(compile=False, **options), EXACT.get(name, 1e-9))


def schedule(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


def cycles(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=20)


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize(
    "options",
    [
        {"lr_schedule": schedule},
        {"lr_schedule": cycles},
        {"gradient_clip": 0.5},
        {"gradient_clip": 0.5, "optimizer": with_hook},
        {"objective": avi.objectives.ELBO(particles=3, kl="sampled")},
        {"validation_data": X[:10].double(), "patience": 3},
    ],
    ids=["a schedule", "a schedule of the momentum too", "clipping", "clipping outside", "particles", "validation"],
)
def test_any_option_is_eager(options: dict[str, Any]) -> None:
    assert_equal(fitted(**options), fitted(compile=False, **options), 1e-9)


def test_everything_at_once_is_eager_in_single_precision() -> None:
    options = {"validation_data": X[:10], "lr_schedule": schedule, "gradient_clip": 1.0, "dtype": torch.float32}
    compiled = fitted(**options)
    # Updates are 0.01 at most; rounding is 1e-7 of a gradient, and Adam magnifies what is a thousandth of the largest.
    assert_equal(compiled, fitted(compile=False, **options), 1e-4)
    # Batches of 16 and of 8, and one of validation data.
    assert compilations(compiled) == 3


@pytest.mark.usefixtures("not_compiled")
def test_one_compilation_a_shape_whatever_changes() -> None:
    vi = fitted(lr_schedule=schedule, validation_data=X[:10].double())
    assert compilations(vi) == 3
    for lr in (0.1, 0.001):
        fitted(vi, lr=lr, validation_data=X[:10].double())
    assert compilations(vi) == 3
    fitted(vi, batch_size=10, validation_data=X[:10].double())
    assert compilations(vi) == 4


@pytest.mark.usefixtures("not_compiled")
def test_a_schedule_that_changes_more_than_the_rate_leaves_the_optimizer_outside() -> None:
    vi = fitted(batch_size=40, lr_schedule=cycles)
    # One with the optimizer, one with what the schedule made of its betas, one of the gradient alone.
    assert compilations(vi) <= 3
    assert vi._trainer._updates._compiled._optimizer is None  # type: ignore[union-attr]


@pytest.mark.usefixtures("not_compiled")
def test_what_a_recording_holds_fixed_makes_a_new_one() -> None:
    vi = fitted(batch_size=40)
    assert compilations(vi) == 1
    vi._trainer._optimizer.param_groups[0]["betas"] = (0.5, 0.9)  # type: ignore[union-attr]
    reference = fitted(batch_size=40, compile=False)
    reference._trainer._optimizer.param_groups[0]["betas"] = (0.5, 0.9)  # type: ignore[union-attr]
    assert_equal(fitted(vi, batch_size=40), fitted(reference, batch_size=40, compile=False), 1e-9)
    assert compilations(vi) == 2


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("name", ["ASGD", "Adam", "SGD with momentum", "fused Adam with amsgrad"])
def test_engines_may_take_turns(name: str) -> None:
    turns, eager = estimator(), estimator()
    for compile in (True, False, True):
        fitted(turns, epochs=3, compile=compile, optimizer=OPTIMIZERS[name])
        fitted(eager, epochs=3, compile=False, optimizer=OPTIMIZERS[name])
    assert_equal(turns, eager, EXACT.get(name, 1e-9))


def test_compiled_fits_repeat_bit_for_bit_and_go_on_from_where_they_were() -> None:
    once, again, in_parts = (fitted(batch_size=40, epochs=epochs) for epochs in (4, 4, 2))
    fitted(in_parts, batch_size=40, epochs=2)
    for name, value in numbers(once).items():
        assert torch.equal(value, numbers(again)[name]), name
        assert torch.equal(value, numbers(in_parts)[name]), name


@pytest.mark.usefixtures("not_compiled")
def test_a_copy_has_nothing_of_what_was_compiled() -> None:
    vi = fitted(epochs=3)
    other = copy.deepcopy(vi)
    before = numbers(vi)
    fitted(other, epochs=3)
    for name, value in numbers(vi).items():
        assert torch.equal(before[name], value), name
    assert_equal(other, fitted(vi, epochs=3), 1e-9)


class TurnsBad(nn.Module):
    """Its scale is driven to where the density overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 3)
        self.fuse = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + (200 * self.fuse).exp() * 1e30, 1.0).to_event(1), obs=x)


@pytest.mark.usefixtures("not_compiled")
def test_numbers_that_are_not_finite_are_found_and_explained() -> None:
    messages, learned = [], []
    for compile in (True, False):
        torch.manual_seed(0)
        vi = avi.AmortizedVI(TurnsBad(), avi.encoders.MLP(3, [6]))
        with pytest.raises(NonFiniteError, match=r"training stopped at epoch \d+, step \d+: .*not finite") as caught:
            fitted(vi, lr=1.0, epochs=50, dtype=torch.float32, compile=compile)
        messages.append(str(caught.value))
        learned.append(numbers(vi) if len(vi.history) else {n: p.detach() for n, p in vi.guide.named_parameters()})
        assert all(torch.isfinite(value).all() for value in learned[-1].values() if value.numel() > 3)
    assert messages[0] == messages[1]


def test_an_optimizer_with_a_line_search_is_refused_before_anything_changes() -> None:
    vi = estimator()
    with pytest.raises(CaptureError, match=r"LBFGS asks for the loss.*compile=False"):
        fitted(vi, optimizer=torch.optim.LBFGS)
    assert len(vi.history) == 0


def reads_a_value(x: Tensor) -> None:
    weight = pyro.param("weight", torch.ones(3))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        sign = 1.0 if z.sum() > 0 else -1.0
        pyro.sample("x", dist.Normal(sign * z.sum(-1, keepdim=True) * weight, 1.0).to_event(1), obs=x)


def test_a_model_that_cannot_be_recorded_says_where_and_nothing_changes() -> None:
    vi = avi.AmortizedVI(reads_a_value, avi.encoders.MLP(3, [6]))
    with pytest.raises(CaptureError, match=r"test_compiled_step.py, line \d+ \(`sign = 1.0 if z.sum\(\) > 0.*'z'"):
        fitted(vi, dtype=torch.float32)
    assert len(vi.history) == 0
    fitted(vi, dtype=torch.float32, compile=False)
    assert math.isfinite(vi.history["elbo"].iloc[-1])


def test_compile_is_checked() -> None:
    with pytest.raises(avi.errors.OptionError, match=r"compile must be 'auto', True or False; got 'always'"):
        fitted(compile="always")
    with pytest.raises(avi.errors.OptionError, match=r"compile must be 'auto', True or False; got 1"):
        fitted(compile=1)
