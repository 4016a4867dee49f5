"""Compiled steps: what leads to a new recording, reproducibility, and errors."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from amortvi.compile.recording import Recording
from amortvi.errors import CaptureError, NonFiniteError
from amortvi.objectives import ELBO, IWAE, LinearSchedule, Objective
from tests.global_state import nothing_changes
from tests.training.steps.fits import TOLERANCE, X, assert_equal, check_as_eager, estimator, fitted, reads_a_value


def test_one_recording_per_shape_whatever_else_changes(recordings: list[Recording]) -> None:
    decaying = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8)
    options = {"lr_schedule": decaying, "validation_data": X[:5].double(), "batch_size": 8, "epochs": 2}
    compiled, eager = estimator(), estimator()
    for lr in (0.01, 0.1, 0.001):
        fitted(compiled, **options, lr=lr)
        fitted(eager, **options, lr=lr, compile=False)
    assert len(recordings) == 3
    assert_equal(compiled, eager, TOLERANCE)
    fitted(compiled, **{**options, "batch_size": 10})
    assert len(recordings) == 4


def test_a_recording_is_reused_for_an_objective_with_the_same_options_only(recordings: list[Recording]) -> None:
    """A schedule keeps its weight in a tensor of its own, so that even an equal schedule needs a new recording."""
    scheduled = ELBO(kl_weight=LinearSchedule(20))
    objectives: list[tuple[Callable[[], Objective], int]] = [
        (lambda: IWAE(3), 1),
        (lambda: IWAE(3), 1),
        (lambda: IWAE(3, gradient="plain"), 2),
        (lambda: scheduled, 3),
        (lambda: scheduled, 3),
        (lambda: ELBO(kl_weight=LinearSchedule(20)), 4),
    ]
    compiled, eager = estimator(), estimator()
    for make, expected in objectives:
        fitted(compiled, epochs=3, objective=make())
        fitted(eager, epochs=3, objective=make(), compile=False)
        assert len(recordings) == expected
    assert_equal(compiled, eager, TOLERANCE)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_schedule_that_changes_betas_leaves_the_optimizer_outside_the_graph(
    clip: float | None, recordings: list[Recording]
) -> None:
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.02, total_steps=20)
    check_as_eager(lr_schedule=one_cycle, gradient_clip=clip)
    # The first recording contains the optimizer. When its betas change again, the second recording contains only the gradient.
    assert [recording.results > 0 for recording in recordings] == [False, True]


def test_new_options_of_the_optimizer_lead_to_a_new_recording(recordings: list[Recording]) -> None:
    options: dict[str, Any] = {"epochs": 3, "optimizer": partial(torch.optim.SGD, momentum=0.9)}
    fits = compiled, eager = fitted(**options), fitted(compile=False, **options)
    for vi, compile in zip(fits, (True, False), strict=True):
        vi._trainer._optimizer.param_groups[0]["momentum"] = 0.5
        fitted(vi, compile=compile, **options)
    assert len(recordings) == 2
    assert_equal(compiled, eager, TOLERANCE)


@pytest.mark.usefixtures("graphs")
def test_fits_are_reproducible_bit_for_bit() -> None:
    """A fit can be repeated, a fit can be continued, and a copy continues on its own as the original would."""
    once, again = fitted(), fitted(epochs=3)
    other, kept = copy.deepcopy(again), copy.deepcopy(again)
    fitted(other, epochs=3)
    assert_equal(again, kept)
    fitted(again, epochs=3)
    assert_equal(again, once)
    assert_equal(other, once)


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
        (reads_a_value, torch.optim.Adam, r"fits.py, line \d+ \(`sign = 1.0 if z.sum\(\) > 0.*'z'"),
        (None, torch.optim.LBFGS, "LBFGS evaluates the loss itself.*compile=False"),
    ],
)
def test_a_fit_that_cannot_be_compiled_changes_nothing(model: Any, optimizer: Any, reason: str) -> None:
    vi = estimator(model)
    with nothing_changes(), pytest.raises(CaptureError, match=reason):
        fitted(vi, optimizer=optimizer, batch_size=8)
    assert len(vi.history) == 0
    assert_equal(fitted(vi, compile=False), fitted(estimator(model), compile=False))
