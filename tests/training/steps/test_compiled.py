"""Fits with compiled steps: their options, the number of compilations, reproducibility, and errors."""

import copy
from typing import Any

import pytest
import torch

from amortvi.compile.recording import Recording
from amortvi.errors import CaptureError, NonFiniteError, OptionError
from amortvi.objectives import ELBO
from tests.training.steps.fits import X, assert_equal, diverging, estimator, fitted, learned, reads_a_value
from tests.training.steps.global_state import assert_unchanged, global_state

VALIDATION = X[:5].double()
TOLERANCE = 1e-9  # see test_compiled_optimizers.py


def decaying(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip": 0.1},
        {"objective": ELBO(particles=3, kl="sampled")},
        {"validation_data": VALIDATION, "patience": 1, "lr": 0.3},
    ],
    ids=["clipping", "particles", "patience"],
)
def test_a_recorded_fit_equals_an_eager_one(options: dict[str, Any]) -> None:
    assert_equal(fitted(**options), fitted(compile=False, **options), TOLERANCE)


def test_one_recording_per_shape_whatever_else_changes(recordings: list[Recording]) -> None:
    options = {"lr_schedule": decaying, "validation_data": VALIDATION, "batch_size": 8, "epochs": 2}
    compiled, eager = fitted(**options), fitted(compile=False, **options)
    for lr in (0.1, 0.001):
        fitted(compiled, **{**options, "lr": lr})
        fitted(eager, **{**options, "lr": lr, "compile": False})
    assert len(recordings) == 3
    assert_equal(compiled, eager, TOLERANCE)
    fitted(compiled, **{**options, "batch_size": 10})
    assert len(recordings) == 4


@pytest.mark.usefixtures("recordings")
def test_recorded_fits_are_reproducible_bit_for_bit() -> None:
    """A fit can be repeated, a fit can be continued, and a copy continues on its own as the original would."""
    once, again = fitted(), fitted(epochs=3)
    other = copy.deepcopy(again)
    kept = learned(again)
    fitted(other, epochs=3)
    assert all(torch.equal(value, kept[name]) for name, value in learned(again).items())
    fitted(again, epochs=3)
    assert_equal(again, once)
    assert_equal(other, once)


@pytest.mark.slow
def test_compiled_fits_are_reproducible_bit_for_bit() -> None:
    test_recorded_fits_are_reproducible_bit_for_bit()


@pytest.mark.usefixtures("recordings")
def test_numbers_that_are_not_finite_are_located() -> None:
    """The compiled step detects them at the end of the epoch; the eager step then repeats the epoch with the same draws."""
    options: dict[str, Any] = {"dtype": torch.float32, "optimizer": torch.optim.SGD, "batch_size": 8}
    messages = []
    for compile in (True, False):
        asked: list[float] = []

        def weight(epochs: float, asked: list[float] = asked) -> float:
            asked.append(epochs)
            return diverging(epochs)

        vi = estimator()
        with pytest.raises(NonFiniteError, match=r"training stopped at epoch 3, step 2: the loss is") as caught:
            fitted(vi, objective=ELBO(kl_weight=weight), compile=compile, **options)
        messages.append(str(caught.value))
        third_epoch = [2, 2 + 1 / 3, 2 + 2 / 3, 2, 2 + 1 / 3] if compile else [2, 2 + 1 / 3]
        assert asked[-len(third_epoch) :] == pytest.approx(third_epoch)
        assert_equal(vi, fitted(epochs=2, compile=False, **options), 1e-5)
    assert messages[0] == messages[1]


@pytest.mark.usefixtures("recordings")
def test_a_failed_fit_leaves_the_global_state() -> None:
    before = global_state()
    with pytest.raises(NonFiniteError):
        fitted(objective=ELBO(kl_weight=diverging), dtype=torch.float32, batch_size=8)
    with pytest.raises(CaptureError):
        fitted(estimator(reads_a_value))
    assert_unchanged(before)


def test_the_error_for_a_model_that_cannot_be_recorded_names_the_line_and_nothing_changes() -> None:
    vi = estimator(reads_a_value)
    with pytest.raises(CaptureError, match=r"fits.py, line \d+ \(`sign = 1.0 if z.sum\(\) > 0.*'z'"):
        fitted(vi, batch_size=8)
    assert len(vi.history) == 0
    assert_equal(fitted(vi, compile=False), fitted(estimator(reads_a_value), compile=False))


@pytest.mark.parametrize("choice", ["always", 1])
def test_compile_is_checked(choice: object) -> None:
    with pytest.raises(OptionError, match="compile"):
        fitted(compile=choice)
