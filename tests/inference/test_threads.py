"""Calls from several threads give what they give alone, or a clear error."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import amortvi as avi
from amortvi.errors import ConcurrentFitError
from tests.training.problem import X, make_vi, parameters

OPTIONS: dict[str, Any] = {"epochs": 12, "progress": False}


def in_threads(*functions: Callable[[], object]) -> None:
    """Call functions at the same time, and raise the first of their errors."""
    errors: list[BaseException] = []

    def call(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def calls(vi: avi.AmortizedVI) -> dict[str, Callable[[], Tensor]]:
    return {
        "evaluate": lambda: torch.tensor(vi.evaluate(X, particles=3, seed=4)["elbo"].tolist()),
        "sample": lambda: vi.posterior(X).sample(3, seed=5)["z"],
        "mean": lambda: vi.posterior(X).mean["z"],
        "sample_prior": lambda: vi.sample_prior(4, seed=1)["z"],
    }


def test_two_fits_and_a_hundred_calls_give_what_they_give_alone() -> None:
    alone = [make_vi(dropout=0.1).fit(X, seed=seed, **OPTIONS) for seed in (1, 2)]
    fits = [make_vi(dropout=0.1) for _ in alone]
    vi = make_vi("diagonal").fit(X, seed=0, epochs=2, progress=False)
    functions = calls(vi)
    expected = {name: function() for name, function in functions.items()}
    found: list[tuple[str, Tensor]] = []
    torch.manual_seed(9)
    state = torch.get_rng_state()
    in_threads(
        *(lambda vi=vi, seed=seed: vi.fit(X, seed=seed, **OPTIONS) for vi, seed in zip(fits, (1, 2), strict=True)),
        *(
            lambda name=name, function=function: found.append((name, function()))
            for name, function in functions.items()
            for _ in range(25)
        ),
    )
    assert len(found) == 100
    assert all(torch.equal(value, expected[name]) for name, value in found)
    for one, two in zip(alone, fits, strict=True):
        assert torch.equal(parameters(one), parameters(two))
        assert one.history["elbo"].tolist() == two.history["elbo"].tolist()
    assert torch.equal(torch.get_rng_state(), state)


class Meet(avi.callbacks.Callback):
    """Lets another thread act between the epochs of a fit."""

    def __init__(self) -> None:
        self.inside, self.leave = threading.Event(), threading.Event()

    def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
        self.inside.set()
        assert self.leave.wait(60)


def test_an_estimator_that_is_fitted_cannot_be_fitted_again_before_the_end() -> None:
    vi, meet = make_vi(), Meet()

    def second() -> None:
        assert meet.inside.wait(60)
        try:
            for call in (vi.fit, vi.fit_encoder, vi.setup):
                options = {} if call == vi.setup else OPTIONS
                with pytest.raises(ConcurrentFitError, match="being fitted: wait"):
                    call(X, **options)
        finally:
            meet.leave.set()

    in_threads(lambda: vi.fit(X, seed=1, callbacks=[meet], **OPTIONS), second)
    assert torch.equal(parameters(vi), parameters(make_vi().fit(X, seed=1, **OPTIONS)))
    vi.fit(X, seed=2, **OPTIONS)  # now it can
    assert len(vi.history) == 24


def test_calls_do_not_wait_for_the_end_of_a_fit_and_do_not_keep_it_from_ending() -> None:
    """The lock is handed over after each epoch, and to whoever waits."""
    vi, other = make_vi(), make_vi("diagonal").setup(X, seed=0)
    progress: list[float] = []
    first, done = threading.Event(), threading.Event()
    waited: list[tuple[float, int]] = []

    class Note(avi.callbacks.Callback):
        def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
            progress.append(time.monotonic())
            first.set()

    def fit() -> None:
        try:
            vi.fit(X, seed=1, compile=False, callbacks=[Note()], **{**OPTIONS, "epochs": 60})
        finally:
            done.set()

    def call() -> None:
        assert first.wait(60)
        while not done.is_set():
            epoch = len(progress)
            other.posterior(X).sample(2, seed=0)
            waited.append((time.monotonic(), len(progress) - epoch))

    in_threads(fit, call, call)
    assert len(progress) == 60
    assert len(waited) >= 20
    # A call takes the lock a few times, and meanwhile only so many epochs can end.
    assert sorted(epochs for _, epochs in waited)[len(waited) // 2] <= 15


def test_a_failed_fit_in_a_thread_leaves_the_lock_to_others() -> None:
    class Fail(avi.callbacks.Callback):
        def on_step_end(self, fit: avi.callbacks.RunningFit) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_threads(lambda: make_vi().fit(X, callbacks=[Fail()], **OPTIONS))
    in_threads(lambda: make_vi().fit(X, **OPTIONS))
