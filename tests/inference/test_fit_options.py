"""The options of `AmortizedVI.fit`, and the functions called after it."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import amortvi as avi
from amortvi import FitOptions
from amortvi.data import Observations
from amortvi.errors import DataError, OptionError
from tests.inference.problem import X, make_vi

FIELDS = [field.name for field in fields(FitOptions)]


@pytest.mark.parametrize(
    ("name", "close"),
    [("epoch", "epochs"), ("batchsize", "batch_size"), ("learning_rate_schedule", "lr_schedule"), ("sede", "seed")],
)
def test_an_unknown_option_is_refused_with_a_suggestion(name: str, close: str) -> None:
    with pytest.raises(OptionError, match=f"{name} is not an option.*{close}"):
        make_vi().fit(X, **{name: 1})


def test_an_unknown_option_without_a_similar_name_lists_all() -> None:
    with pytest.raises(OptionError, match="qqq is not an option") as caught:
        make_vi().fit(X, qqq=1)
    assert all(name in str(caught.value) for name in FIELDS)


def test_the_signature_shows_every_option() -> None:
    signature = inspect.signature(avi.AmortizedVI.fit).parameters
    assert list(signature) == ["self", "x", *FIELDS]
    options = inspect.signature(FitOptions).parameters
    assert all(signature[name] == options[name] for name in FIELDS)


def test_the_docstring_describes_every_option() -> None:
    documented = inspect.getdoc(avi.AmortizedVI.fit)
    assert documented is not None
    arguments = documented[documented.index("Args:") : documented.index("Returns:")]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == ["x", *FIELDS]


# ------------------------------------------------------------------------------ functions called after a fit

Call = tuple[avi.AmortizedVI, Observations, FitOptions]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls of a function that is registered for the duration of a test."""
    found: list[Call] = []

    def record(vi: avi.AmortizedVI, x: Observations, options: FitOptions) -> None:
        found.append((vi, x, options))

    monkeypatch.setattr(avi.AmortizedVI, "after_fit", [*avi.AmortizedVI.after_fit, record])
    return found


def test_functions_are_called_after_each_fit(calls: list[Call]) -> None:
    vi = make_vi()
    for epochs in (1, 2):
        vi.fit(X, epochs=epochs, seed=0, progress=False)
    assert len(calls) == 2
    owner, observations, options = calls[-1]
    assert owner is vi
    assert observations.size == len(X)
    assert (options.epochs, options.seed, options.batch_size) == (2, 0, None)
    assert options.objective == calls[-1][2].objective
    assert len(vi.history) == 3


def test_functions_see_the_trained_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(vi: avi.AmortizedVI, x: Observations, options: FitOptions) -> None:
        assert len(vi.history) == options.epochs
        assert len(vi.evaluate(x, particles=2)) == x.size

    monkeypatch.setattr(avi.AmortizedVI, "after_fit", [check])
    make_vi().fit(X, epochs=3, seed=0, progress=False)


def test_functions_are_not_called_without_a_fit(calls: list[Call]) -> None:
    vi = make_vi().setup(X, seed=0)
    with pytest.raises(DataError):
        vi.fit(X.double(), progress=False)
    assert calls == []


def test_functions_can_be_removed(calls: list[Call]) -> None:
    hook: Callable[..., Any] = avi.AmortizedVI.after_fit[-1]
    avi.AmortizedVI.after_fit.remove(hook)
    make_vi().fit(X, epochs=1, seed=0, progress=False)
    assert calls == []
