"""The phases of a fit, for learning curves that are known."""

import math
from collections.abc import Callable

import pytest

from amortvi.training.timetable import Timetable


def played(timetable: Timetable, curve: Callable[[int], float], changes: int = 0) -> list[tuple[float, float]]:
    """Return rate and unlocked fraction at the start of each epoch of a fit whose bound follows ``curve``.

    The objective changes during the first epochs, as many as ``changes`` says.
    """
    seen: list[tuple[float, float]] = []
    while len(seen) < timetable.epochs:
        seen.append((timetable.rate(len(seen)), timetable.unlocked(len(seen))))
        timetable.record(curve(len(seen)), objective_changed=len(seen) <= changes)
    return seen


def test_phases_are_fractions_of_given_epochs() -> None:
    timetable = Timetable(100, ends_by_itself=False, locks=True, decays=True, fewest_epochs=20)
    seen = played(timetable, lambda epoch: 0.0)
    assert len(seen) == 100
    assert [seen[epoch] for epoch in (0, 25, 50)] == [(1.0, 0.0), (1.0, 0.0), (1.0, 1.0)]
    assert seen[37][1] == pytest.approx(0.48)
    assert seen[75][0] == pytest.approx(0.5)
    assert seen[99][0] == pytest.approx(0.02)
    assert timetable.status == "converged"


def test_nothing_waits_if_nothing_is_locked_and_the_rate_may_be_constant() -> None:
    timetable = Timetable(40, ends_by_itself=False, locks=False, decays=False, fewest_epochs=20)
    assert set(played(timetable, math.log)) == {(1.0, 1.0)}
    assert timetable.status == "still rising"


def test_a_fit_that_ends_by_itself_ends_after_the_bound_has_leveled_off() -> None:
    """The bound is within a hundredth of its limit after 46 epochs, and within a thousandth after 69."""
    timetable = Timetable(1000, ends_by_itself=True, locks=True, decays=True, fewest_epochs=20)
    seen = played(timetable, lambda epoch: -math.exp(-epoch / 10))
    assert timetable.status == "converged"
    assert 69 < len(seen) < 200
    unlocked = next(epoch for epoch, (_, fraction) in enumerate(seen) if fraction == 1)
    falls = next(epoch for epoch, (rate, _) in enumerate(seen) if rate < 1)
    assert 20 <= unlocked <= falls


def test_a_bound_that_never_levels_off_ends_with_the_budget() -> None:
    timetable = Timetable(200, ends_by_itself=True, locks=True, decays=True, fewest_epochs=20)
    seen = played(timetable, lambda epoch: math.log(epoch))
    assert (len(seen), timetable.status) == (200, "still rising")
    assert seen[-1][0] < 0.02


def test_a_constant_rate_remains_constant() -> None:
    timetable = Timetable(1000, ends_by_itself=True, locks=False, decays=False, fewest_epochs=20)
    seen = played(timetable, lambda epoch: -math.exp(-epoch / 5))
    assert len(seen) < 100
    assert {rate for rate, _ in seen} == {1.0}


def test_an_objective_that_changes_is_not_judged() -> None:
    """The weight of the KL rises for 60 epochs, and the validation bound falls."""
    timetable = Timetable(1000, ends_by_itself=True, locks=False, decays=True, fewest_epochs=20, may_fall=True)
    seen = played(timetable, lambda epoch: -min(epoch, 60) / 60, changes=60)
    assert next(epoch for epoch, (rate, _) in enumerate(seen) if rate < 1) > 80
    assert timetable.status == "converged"


def test_noise_hides_whether_a_bound_has_leveled_off() -> None:
    """Bounds of 25 epochs that vary by a nat say nothing about a hundredth of a nat."""
    timetable = Timetable(25, ends_by_itself=False, locks=False, decays=False, fewest_epochs=20)
    played(timetable, lambda epoch: (-1.0) ** epoch)
    assert timetable.status == "budget"


def test_only_a_validation_bound_may_fall() -> None:
    """The validation bound of a fit that overfits falls for good; a training bound that falls has not converged."""
    for may_fall, status in ((False, "falling"), (True, "converged")):
        timetable = Timetable(1000, ends_by_itself=True, locks=False, decays=True, fewest_epochs=20, may_fall=may_fall)
        seen = played(timetable, lambda epoch: -math.log(epoch))
        assert timetable.status == status
        assert (len(seen) < 1000) == may_fall


def test_too_few_epochs_say_nothing() -> None:
    timetable = Timetable(5, ends_by_itself=False, locks=False, decays=True, fewest_epochs=20)
    played(timetable, lambda epoch: 0.0)
    assert timetable.status == "budget"
