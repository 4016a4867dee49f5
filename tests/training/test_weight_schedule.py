"""Schedules of the KL weight during training: each step, over several fits, and with epochs of unknown length."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from amortvi.errors import OptionError
from amortvi.objectives import ELBO, LinearSchedule
from tests.training.problem import X, make_vi, parameters


def recorded(schedule: Callable[[float], float] = lambda epochs: 1.0) -> tuple[ELBO, list[float]]:
    """Return an objective, and the list of the passes over the data at which its schedule is evaluated."""
    calls: list[float] = []

    def record(epochs: float) -> float:
        calls.append(epochs)
        return schedule(epochs)

    objective = ELBO(kl_weight=record)
    calls.clear()  # the constructor evaluates the schedule once
    return objective, calls


def fit(objective: ELBO, x: Any = X, **options: Any) -> torch.Tensor:
    """Return the parameters after a fit."""
    return parameters(
        make_vi("diagonal").fit(
            x, objective=objective, **{"lr_schedule": "constant", "seed": 0, "progress": False, **options}
        )
    )


def test_each_step_knows_the_passes_before_it() -> None:
    objective, calls = recorded()
    fit(objective, validation_data=X[:50], batch_size=128, epochs=2)
    assert calls == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])


def test_a_further_fit_continues_the_schedule() -> None:
    """Two epochs and two more equal four bit for bit, with the same objective or with another of the same schedule."""
    schedule = LinearSchedule(epochs=3, start=0.1)
    whole = fit(ELBO(kl_weight=schedule), epochs=4)
    objective, calls = recorded(schedule)
    for following in (objective, ELBO(kl_weight=schedule)):
        parts = make_vi("diagonal")
        for each in (objective, following):
            parts.fit(X, epochs=2, objective=each, lr_schedule="constant", seed=0, progress=False)
        assert torch.equal(whole, parameters(parts))
    assert max(calls[:12]) == pytest.approx(3 + 2 / 3)
    assert not torch.equal(whole, fit(ELBO(kl_weight=0.1), epochs=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_schedule_equals_a_weight(dtype: torch.dtype) -> None:
    scheduled, fixed = (
        fit(ELBO(kl_weight=weight), X.to(dtype), dtype=dtype, epochs=2) for weight in (lambda epochs: 0.3, 0.3)
    )
    assert torch.equal(scheduled, fixed)


def test_the_first_step_uses_the_first_weight() -> None:
    """If the weight is zero in the first epoch, that epoch trains the reconstruction alone."""
    scheduled = fit(ELBO(kl_weight=lambda epochs: float(epochs >= 1)), epochs=1)
    assert torch.equal(scheduled, fit(ELBO(kl_weight=0), epochs=1))


class Stream(IterableDataset[Any]):
    """Observations whose number is unknown until the last one."""

    def __iter__(self) -> Iterator[Any]:
        return iter(X)


def test_an_epoch_of_unknown_length_has_one_weight() -> None:
    objective, calls = recorded()
    fit(objective, DataLoader(Stream(), batch_size=100), epochs=3)
    assert calls == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_early_stopping_uses_the_unweighted_elbo() -> None:
    """As the weight rises, the trained quantity falls from epoch to epoch, but the ELBO does not."""
    vi = make_vi("diagonal")
    rising = ELBO(kl_weight=LinearSchedule(epochs=30))
    vi.fit(X, validation_data=X, epochs=30, lr=0.01, patience=5, objective=rising, seed=0, progress=False)
    assert vi.history["validation_elbo"].idxmax() > 10
    plain = vi.history["validation_reconstruction"] - vi.history["validation_kl"]
    assert vi.history["validation_elbo"].to_numpy() == pytest.approx(plain.to_numpy(), rel=1e-5)


def test_a_failing_schedule_keeps_the_last_good_epoch() -> None:
    vi = make_vi("diagonal")
    failing = ELBO(kl_weight=lambda epochs: 1.0 if epochs < 2.1 else -1.0)
    with pytest.raises(OptionError, match=r"kl_weight is a schedule.*after 2.33\d+ passes it returned -1"):
        vi.fit(X, epochs=5, objective=failing, lr_schedule="constant", seed=0, progress=False)
    assert len(vi.history) == 2
    assert torch.equal(parameters(vi), fit(ELBO(), epochs=2))


def test_an_objective_can_be_shared_by_several_fits() -> None:
    objective = ELBO(kl_weight=LinearSchedule(epochs=4))
    fits = [make_vi(family) for family in ("diagonal", "diagonal")]
    for vi in fits:
        vi.fit(X, epochs=3, objective=objective, lr_schedule="constant", seed=0, progress=False)
    assert torch.equal(parameters(fits[0]), fit(ELBO(kl_weight=LinearSchedule(4)), epochs=3))
