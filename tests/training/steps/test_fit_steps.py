"""What a fit has recorded serves the next one, unless something else is to be computed, and after a verification."""

import copy
import gc
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

from amortvi.compile.recording import Recording
from amortvi.objectives import ELBO, IWAE, LinearSchedule
from tests.training.steps.fits import TOLERANCE, Linear, X, assert_equal, estimator, fitted

SCHEDULED = ELBO(kl_weight=LinearSchedule(epochs=4))


def test_fits_of_one_epoch_each_are_recorded_together(recordings: list[Recording]) -> None:
    vi = estimator()
    for _ in range(24):
        fitted(vi, compile="auto", epochs=1)
    assert len(recordings) == 1
    eager = estimator()
    for _ in range(24):
        fitted(eager, compile=False, epochs=1)
    assert_equal(vi, eager, TOLERANCE)


@pytest.mark.parametrize(
    ("first", "second", "is_kept"),
    [
        ({}, {}, True),
        ({}, {"lr": 0.02}, True),
        ({}, {"objective": ELBO()}, True),
        ({"objective": SCHEDULED}, {"objective": SCHEDULED}, True),
        ({}, {"objective": IWAE(particles=2)}, False),
        ({"objective": IWAE(particles=3)}, {"objective": IWAE(particles=2)}, False),
        ({}, {"gradient_clip": 0.5}, False),
        ({}, {"optimizer": torch.optim.SGD}, False),
        ({}, {"dtype": torch.float32}, False),
    ],
)
def test_what_is_computed_decides(
    first: dict[str, Any], second: dict[str, Any], is_kept: bool, recordings: list[Recording]
) -> None:
    mine, eager = estimator(), estimator()
    for options in (first, second):
        for vi, compile in ((mine, True), (eager, False)):
            fitted(vi, epochs=3, **{"compile": compile} | options)
    assert len(recordings) == (1 if is_kept else 2)
    assert_equal(mine, eager, 1e-4 if "dtype" in second else TOLERANCE)


class Scaled(Linear):
    """Its likelihood has a factor that the user changes between two fits."""

    factor = 1.0

    def forward(self, x: Tensor) -> None:
        with pyro.poutine.scale(scale=self.factor):
            super().forward(x)


@pytest.mark.usefixtures("recordings")
def test_a_number_that_changes_between_two_fits_is_noticed_without_a_warning(recordings: list[Recording]) -> None:
    mine, eager = (estimator(Scaled()) for _ in range(2))
    for factor in (1.0, 1.0, 0.5):
        for vi, compile in ((mine, True), (eager, False)):
            vi.model.factor = factor
            fitted(vi, epochs=4, compile=compile)
    assert len(recordings) == 2 + 1  # the explanation of a difference needs another recording
    assert_equal(mine, eager, TOLERANCE)


def test_a_layer_that_is_added_between_two_fits_is_noticed(recordings: list[Recording]) -> None:
    vi = fitted(estimator(), epochs=3)
    vi.model.extra = nn.Linear(2, 2)
    fitted(vi, epochs=3)
    assert len(recordings) == 2


def test_the_data_of_each_fit_are_used(recordings: list[Recording]) -> None:
    mine, eager = estimator(), estimator()
    for data in (X, 2 * X):
        for vi, compile in ((mine, True), (eager, False)):
            vi.fit(data.double(), epochs=4, batch_size=20, dtype=torch.float64, compile=compile, seed=0, progress=False)
    assert len(recordings) == 1
    assert_equal(mine, eager, TOLERANCE)


def address_of(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a tensor of another test, without memory of its own
        return None


def test_data_are_not_kept_after_a_fit(recordings: list[Recording]) -> None:
    data = X.double().clone()
    memory = data.untyped_storage().data_ptr()
    vi = estimator().fit(data, epochs=4, batch_size=20, dtype=torch.float64, compile=True, seed=0, progress=False)
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is Tensor and each.layout is torch.strided]
    tensors = [each for each in tensors if address_of(each) == memory]
    assert len(recordings) == 1
    assert [each for each in tensors if each is not data] == []
    assert len(vi.history) == 4


def test_a_copy_of_an_estimator_records_its_own_steps(recordings: list[Recording]) -> None:
    vi = fitted(estimator(), epochs=3)
    copied, unchanged = copy.deepcopy(vi), copy.deepcopy(vi)
    for _ in range(2):
        fitted(copied, epochs=3)
    assert len(recordings) == 2
    assert_equal(vi, unchanged)
    for _ in range(2):
        fitted(vi, epochs=3)
    assert_equal(vi, copied, TOLERANCE)
