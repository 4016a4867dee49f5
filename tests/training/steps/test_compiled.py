"""Compiled steps: what leads to a new recording, reproducibility, and errors."""

import copy
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from amortvi.compile.recording import Recording
from amortvi.errors import CaptureError, NonFiniteError
from amortvi.objectives import ELBO, IWAE, LinearSchedule
from tests.global_state import nothing_changes
from tests.training.steps.fits import (
    TOLERANCE,
    Linear,
    X,
    assert_equal,
    check_as_eager,
    estimator,
    fitted,
    reads_a_value,
)


def test_one_recording_per_shape_whatever_else_changes(recordings: list[Recording]) -> None:
    """Batches of 8, 8 and 4 observations, and one of 5 for the validation."""
    decaying = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8)
    options: dict[str, Any] = {"lr_schedule": decaying, "validation_data": X[:5].double(), "batch_size": 8}
    check_as_eager(epochs=5, objective=ELBO(kl_weight=LinearSchedule(4)), **options)
    assert len(recordings) == 3


def test_each_fit_makes_its_own_recordings(recordings: list[Recording]) -> None:
    """With other options of every kind, even such as change a tensor or an option of the optimizer that was recorded."""
    fits: list[dict[str, Any]] = [
        {"lr": 0.1},
        {"lr": 0.001, "gradient_clip": 0.1},
        {"objective": IWAE(3)},
        {"objective": IWAE(3, gradient="plain"), "batch_size": 10},
        {"objective": ELBO(kl_weight=LinearSchedule(20))},
        {"momentum": 0.5},
    ]
    compiled, eager = estimator(), estimator()
    optimizer = partial(torch.optim.SGD, momentum=0.9)
    for count, options in enumerate(fits, start=1):
        momentum = options.pop("momentum", None)
        for vi, compile in ((compiled, True), (eager, False)):
            if momentum is not None:
                vi._trainer._optimizer.param_groups[0]["momentum"] = momentum
            fitted(vi, compile=compile, optimizer=optimizer, epochs=4, **options)
        assert len(recordings) == count
    assert_equal(compiled, eager, TOLERANCE)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_schedule_that_changes_betas_leads_to_a_new_recording_in_each_epoch(
    clip: float | None, recordings: list[Recording]
) -> None:
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.02, total_steps=20)
    check_as_eager(epochs=6, lr_schedule=one_cycle, gradient_clip=clip)
    # The first epoch is one eager step. Each recording contains the optimizer, so that its only result is the loss.
    assert [recording.results for recording in recordings] == [1] * 5


class Tempered(Linear):
    """Reads the value of a buffer, which the schedule of the KL weight changes in place after four epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=float(self.temperature)):
            super().forward(x)


def test_a_new_value_of_a_tensor_that_was_read_leads_to_a_new_recording(recordings: list[Recording]) -> None:
    def make() -> Any:
        model = Tempered()

        def cooling(epochs: float) -> float:
            if epochs == 4:
                model.temperature.fill_(0.5)
            return 1.0

        vi = estimator(model)
        vi.fit = partial(vi.fit, objective=ELBO(kl_weight=cooling))
        return vi

    check_as_eager(make)
    assert len(recordings) == 2


@pytest.mark.usefixtures("graphs")
def test_fits_are_reproducible_bit_for_bit() -> None:
    """A fit can be repeated, and a copy continues on its own as the original does, up to rounding."""
    assert_equal(fitted(), fitted())
    original = fitted()
    copied, unchanged = copy.deepcopy(original), copy.deepcopy(original)
    fitted(copied)
    assert_equal(original, unchanged)
    fitted(original)
    # A copy begins with an eager step again, and in one long fit other steps are eager; rounding differs.
    assert_equal(original, copied, TOLERANCE)
    assert_equal(original, fitted(epochs=24), TOLERANCE)


@pytest.mark.usefixtures("recordings")
def test_numbers_that_are_not_finite_are_located() -> None:
    """The compiled step detects them at the end of the epoch; the eager step then repeats the epoch with the same draws."""
    options: dict[str, Any] = {"dtype": torch.float32, "optimizer": torch.optim.SGD, "batch_size": 8}
    requested: list[float] = []
    messages = []

    def diverging(epochs: float) -> float:
        """Return a weight that overflows in single precision from the second of three steps of the third epoch on."""
        requested.append(epochs)
        return 1.0 if epochs < 2.3 else 1e300

    reason = "training stopped at epoch 3, step 2: the loss is"
    for compile in (True, False):
        vi = estimator()
        with nothing_changes(), pytest.raises(NonFiniteError, match=reason) as caught:
            fitted(vi, objective=ELBO(kl_weight=diverging), compile=compile, **options)
        messages.append(str(caught.value))
        third_epoch = [2, 2 + 1 / 3, 2 + 2 / 3, 2, 2 + 1 / 3] if compile else [2, 2 + 1 / 3]
        assert requested[-len(third_epoch) :] == pytest.approx(third_epoch)
        assert_equal(vi, fitted(epochs=2, compile=False, **options), 1e-5)
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("model", "optimizer", "reason"),
    [
        (reads_a_value, torch.optim.Adam, r"fits.py, line \d+ \(`sign = 1.0 if z.isfinite.*'z'"),
        (None, torch.optim.LBFGS, "LBFGS evaluates the loss itself.*compile=False"),
    ],
)
def test_a_fit_that_cannot_be_compiled_changes_nothing(model: Any, optimizer: Any, reason: str) -> None:
    vi = estimator(model)
    with nothing_changes(), pytest.raises(CaptureError, match=reason):
        fitted(vi, optimizer=optimizer, batch_size=8)
    assert len(vi.history) == 0
    assert_equal(fitted(vi, compile=False), fitted(estimator(model), compile=False))
