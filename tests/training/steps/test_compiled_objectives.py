"""Every objective compiled is what it is eagerly, and a weight that changes compiles nothing anew."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from amortvi.errors import NonFiniteError
from amortvi.objectives import ELBO, IWAE, CyclicalSchedule, LinearSchedule, Objective, Renyi
from tests.training.steps.test_compiled_is_eager import assert_equal
from tests.training.steps.test_compiled import X, compilations, estimator, fitted

# The recording of every objective is tested by the conformance suite: here are those that are made of different parts.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "free bits": lambda: ELBO(2, free_bits=0.1),
    "a linear schedule": lambda: ELBO(kl_weight=LinearSchedule(epochs=4.3, start=0.1)),
    "all at once": lambda: ELBO(
        gradient="sticking_the_landing", kl_weight=CyclicalSchedule(epochs=4, cycles=2), free_bits=0.1
    ),
    "iwae": lambda: IWAE(4),
    "iwae, plain": lambda: IWAE(4, gradient="plain"),
    "renyi": lambda: Renyi(0.3, 4),
}


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.usefixtures("not_compiled")
def test_any_objective_is_eager(make: Callable[[], Objective]) -> None:
    options: dict[str, Any] = {"batch_size": 40, "epochs": 5}
    compiled = fitted(estimator(family="full"), objective=make(), **options)
    assert_equal(compiled, fitted(estimator(family="full"), objective=make(), compile=False, **options), 1e-9)


@pytest.mark.usefixtures("not_compiled")
def test_validation_and_a_smaller_last_batch_are_eager() -> None:
    make = OBJECTIVES["all at once"]
    options: dict[str, Any] = {"validation_data": X[:10].double(), "epochs": 4}
    assert_equal(fitted(objective=make(), **options), fitted(objective=make(), compile=False, **options), 1e-9)


COMPILED = ("all at once", "renyi")
"""What is compiled each time: between them they have all that the others have."""


@pytest.mark.parametrize(
    "name", [name if name in COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES]
)
def test_any_objective_is_eager_when_compiled(name: str) -> None:
    make = OBJECTIVES[name]
    options: dict[str, Any] = {"batch_size": 40, "epochs": 20}
    compiled = fitted(estimator(family="full"), objective=make(), **options)
    assert_equal(compiled, fitted(estimator(family="full"), objective=make(), compile=False, **options), 1e-9)
    assert compilations(compiled) == 1


@pytest.mark.usefixtures("not_compiled")
def test_a_weight_that_changes_compiles_nothing_anew() -> None:
    objective = ELBO(kl_weight=LinearSchedule(epochs=20))
    vi = fitted(batch_size=40, objective=objective)
    assert compilations(vi) == 1
    fitted(vi, batch_size=40, objective=objective)
    assert compilations(vi) == 1
    eager = estimator()
    for _ in range(2):
        fitted(eager, batch_size=40, objective=objective, compile=False)
    assert_equal(vi, eager, 1e-9)


@pytest.mark.usefixtures("not_compiled")
def test_what_was_compiled_for_one_schedule_does_not_serve_another() -> None:
    """Not even one that looks the same, which has its weight in another tensor."""
    turns = [LinearSchedule(9), LinearSchedule(9), lambda epochs: 0.5]
    compiled, eager = estimator(), estimator()
    for schedule in turns:
        fitted(compiled, batch_size=40, epochs=3, objective=ELBO(kl_weight=schedule))
        fitted(eager, batch_size=40, epochs=3, objective=ELBO(kl_weight=schedule), compile=False)
    assert_equal(compiled, eager, 1e-9)


@pytest.mark.usefixtures("not_compiled")
def test_options_that_stay_are_compiled_once() -> None:
    vi = fitted(batch_size=40, objective=IWAE(3))
    fitted(vi, batch_size=40, objective=IWAE(3))
    assert compilations(vi) == 1
    fitted(vi, batch_size=40, objective=IWAE(3, gradient="plain"))
    eager = estimator()
    for gradient in ("dreg", "dreg", "plain"):
        fitted(eager, batch_size=40, objective=IWAE(3, gradient=gradient), compile=False)
    assert_equal(vi, eager, 1e-9)


@pytest.mark.usefixtures("not_compiled")
def test_an_epoch_that_is_run_again_has_the_same_weights() -> None:
    """The compiled step finds out at the end of an epoch that it failed in the middle; the eager one then repeats it."""
    asked: list[float] = []

    def too_much(epochs: float) -> float:
        asked.append(epochs)
        return 1.0 if epochs < 2.3 else 1e300

    vi = estimator()
    with pytest.raises(NonFiniteError, match=r"training stopped at epoch 3, step 2"):
        fitted(vi, dtype=torch.float32, objective=ELBO(kl_weight=too_much))
    assert asked[-5:] == pytest.approx([2, 2 + 1 / 3, 2 + 2 / 3, 2, 2 + 1 / 3])
    reference = fitted(epochs=2, dtype=torch.float32, compile=False)
    assert_equal(vi, reference, 1e-4)
