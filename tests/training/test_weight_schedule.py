"""The objective knows how far the training is: in each step, over several fits, and where an epoch has no known length."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.objectives import ELBO, LinearSchedule
from tests.training.test_fit import X, _numbers, _start


def watched(schedule: Callable[[float], float] = lambda epochs: 1.0) -> tuple[ELBO, list[float]]:
    """An objective, and the passes over the data that its schedule has been asked for since it was made."""
    seen: list[float] = []

    def asked(epochs: float) -> float:
        seen.append(epochs)
        return schedule(epochs)

    objective = ELBO(kl_weight=asked)
    seen.clear()
    return objective, seen


def test_each_step_knows_the_passes_before_it() -> None:
    objective, seen = watched()
    _start().fit(X, validation_data=X[:50], batch_size=128, epochs=2, objective=objective, seed=0, progress=False)
    assert seen == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])


def test_a_further_fit_goes_on_with_the_schedule() -> None:
    """Two epochs and two are four, bit for bit, with the objective as it was or with another of the same schedule."""
    schedule = LinearSchedule(epochs=3, start=0.1)
    whole = _start().fit(X, epochs=4, objective=ELBO(kl_weight=schedule), seed=0, progress=False)
    objective, seen = watched(schedule)
    for following in (objective, ELBO(kl_weight=schedule)):
        parts = _start().fit(X, epochs=2, objective=objective, seed=0, progress=False)
        parts.fit(X, epochs=2, objective=following, seed=0, progress=False)
        assert torch.equal(_numbers(whole), _numbers(parts))
    assert max(seen[:12]) == pytest.approx(3 + 2 / 3)
    constant = _start().fit(X, epochs=4, objective=ELBO(kl_weight=0.1), seed=0, progress=False)
    assert not torch.equal(_numbers(whole), _numbers(constant))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_schedule_that_stays_is_a_weight(dtype: torch.dtype) -> None:
    scheduled, fixed = (
        _start().fit(X.to(dtype), epochs=2, objective=ELBO(kl_weight=weight), dtype=dtype, seed=0, progress=False)
        for weight in (lambda epochs: 0.3, 0.3)
    )
    assert torch.equal(_numbers(scheduled), _numbers(fixed))


def test_the_first_weight_is_that_of_the_first_step() -> None:
    """Without a KL in its first epoch a fit is that of the reconstruction alone."""
    step = _start().fit(
        X, epochs=1, objective=ELBO(kl_weight=lambda epochs: float(epochs >= 1)), seed=0, progress=False
    )
    none = _start().fit(X, epochs=1, objective=ELBO(kl_weight=0), seed=0, progress=False)
    assert torch.equal(_numbers(step), _numbers(none))


class Stream(IterableDataset[Any]):
    """Observations whose number is not known before they end."""

    def __iter__(self) -> Iterator[Any]:
        return iter(X)


def test_an_epoch_of_unknown_length_has_one_weight() -> None:
    objective, seen = watched()
    loader = DataLoader(Stream(), batch_size=100)
    _start().fit(loader, epochs=3, objective=objective, seed=0, progress=False)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2]


class Claims(Stream):
    """Says that it is shorter than it is."""

    def __len__(self) -> int:
        return 100


@pytest.mark.filterwarnings("ignore:Length of IterableDataset:UserWarning")
def test_an_epoch_longer_than_it_said_does_not_run_ahead() -> None:
    objective, seen = watched()
    _start().fit(DataLoader(Claims(), batch_size=50), epochs=2, objective=objective, seed=0, progress=False)
    assert seen == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 1.5, 2, 2, 2, 2])


def test_early_stopping_watches_the_elbo_whatever_the_weight() -> None:
    """A weight that rises makes what is followed worse from epoch to epoch; the ELBO is none the worse for it."""
    vi = _start("diagonal")
    rising = ELBO(kl_weight=LinearSchedule(epochs=30))
    vi.fit(X, validation_data=X, epochs=30, lr=0.01, patience=5, objective=rising, seed=0, progress=False)
    best = vi.history["validation_elbo"].idxmax()
    assert best > 10
    plain = vi.history["validation_reconstruction"] - vi.history["validation_kl"]
    assert vi.history["validation_elbo"].to_numpy() == pytest.approx(plain.to_numpy(), rel=1e-5)


def test_a_schedule_that_fails_midway_leaves_the_last_good_epoch() -> None:
    vi = _start()
    with pytest.raises(OptionError, match=r"kl_weight, where it is a schedule.*after 2.33\d+ it returned -1"):
        vi.fit(
            X,
            epochs=5,
            objective=ELBO(kl_weight=lambda epochs: 1.0 if epochs < 2.1 else -1.0),
            seed=0,
            progress=False,
        )
    assert len(vi.history) == 2
    reference = _start().fit(X, epochs=2, seed=0, progress=False)
    assert torch.equal(_numbers(vi), _numbers(reference))


def test_one_objective_for_several_families() -> None:
    objective = ELBO(kl_weight=LinearSchedule(epochs=4))
    fits = avi.fit_families(
        _start().model, _start().encoder, ["diagonal", "full"], X, epochs=3, objective=objective, progress=False
    )
    alone = avi.fit_families(
        _start().model,
        _start().encoder,
        ["full"],
        X,
        epochs=3,
        objective=ELBO(kl_weight=LinearSchedule(4)),
        progress=False,
    )
    assert torch.equal(_numbers(fits["full"]), _numbers(alone["full"]))
