"""A recorded or compiled step learns the same as an eager one for every objective, and a changing weight needs no recording."""

from collections.abc import Callable
from typing import Any

import pytest

from amortvi.compile.recording import Recording
from amortvi.families import FullCovariance
from amortvi.objectives import ELBO, IWAE, CyclicalSchedule, LinearSchedule, Objective, Renyi
from tests.training.steps.fits import X, assert_equal, estimator, fitted

TOLERANCE = 1e-9  # see test_compiled_optimizers.py

# The conformance suite records every objective. These combine their parts.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "free bits": lambda: ELBO(2, free_bits=0.1),
    "a linear schedule": lambda: ELBO(kl_weight=LinearSchedule(epochs=4.3, start=0.1)),
    "all options": lambda: ELBO(
        gradient="sticking_the_landing", kl_weight=CyclicalSchedule(epochs=4, cycles=2), free_bits=0.1
    ),
    "iwae": lambda: IWAE(4),
    "iwae, plain": lambda: IWAE(4, gradient="plain"),
    "renyi": lambda: Renyi(0.3, 4),
}


def check(name: str, **options: Any) -> None:
    compiled, eager = (
        fitted(estimator(family=FullCovariance), objective=OBJECTIVES[name](), compile=compile, **options)
        for compile in (True, False)
    )
    assert_equal(compiled, eager, TOLERANCE)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_recorded_objective_learns_the_same(name: str, recordings: list[Recording]) -> None:
    check(name)
    assert len(recordings) == 1


@pytest.mark.usefixtures("recordings")
def test_the_weight_is_the_same_in_validation_and_in_a_smaller_last_batch() -> None:
    check("all options", batch_size=8, validation_data=X[:5].double())


@pytest.mark.slow
def test_the_compiled_weight_is_the_same_in_validation_and_in_a_smaller_last_batch() -> None:
    test_the_weight_is_the_same_in_validation_and_in_a_smaller_last_batch()


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_compiled_objective_learns_the_same(name: str) -> None:
    check(name, epochs=20)


def test_an_objective_that_continues_is_not_recorded_again(recordings: list[Recording]) -> None:
    objective = ELBO(kl_weight=LinearSchedule(epochs=20))
    compiled, eager = estimator(), estimator()
    for _ in range(2):
        fitted(compiled, epochs=3, objective=objective)
        fitted(eager, epochs=3, objective=objective, compile=False)
    assert len(recordings) == 1
    assert_equal(compiled, eager, TOLERANCE)


def test_a_recording_is_reused_for_an_objective_with_the_same_options_only(recordings: list[Recording]) -> None:
    """A schedule keeps its weight in a tensor of its own, so that even an equal schedule needs a new recording."""
    objectives: list[tuple[Callable[[], Objective], int]] = [
        (lambda: IWAE(3), 1),
        (lambda: IWAE(3), 1),
        (lambda: IWAE(3, gradient="plain"), 2),
        (lambda: ELBO(kl_weight=LinearSchedule(9)), 3),
        (lambda: ELBO(kl_weight=LinearSchedule(9)), 4),
    ]
    compiled, eager = estimator(), estimator()
    for make, expected in objectives:
        fitted(compiled, epochs=3, objective=make())
        fitted(eager, epochs=3, objective=make(), compile=False)
        assert len(recordings) == expected
    assert_equal(compiled, eager, TOLERANCE)
