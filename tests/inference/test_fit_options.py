"""The options of `AmortizedVI.fit`, and the functions called after it."""

import inspect
import re
from dataclasses import fields

import pytest

import amortvi as avi
from amortvi import FitOptions
from amortvi.data import Observations
from amortvi.errors import DataError, OptionError
from tests.inference.problem import X, make_vi

FIELDS = [field.name for field in fields(FitOptions)]


@pytest.mark.parametrize(("name", "close"), [("epoch", "epochs"), ("learning_rate_schedule", "lr_schedule")])
def test_an_unknown_option_is_refused_with_a_suggestion(name: str, close: str) -> None:
    with pytest.raises(OptionError, match=f"{name} is not an option.*{close}"):
        make_vi().fit(X, **{name: 1})


def test_signature_and_docstring_list_every_option() -> None:
    signature = inspect.signature(avi.AmortizedVI.fit).parameters
    assert list(signature) == ["self", "x", "y", *FIELDS]
    options = inspect.signature(FitOptions).parameters
    assert all(signature[name] == options[name] for name in FIELDS)
    documented = inspect.getdoc(avi.AmortizedVI.fit) or ""
    arguments = documented[documented.index("Args:") : documented.index("Returns:")]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == ["x", "y", *FIELDS]


def test_functions_are_called_after_each_successful_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[avi.AmortizedVI, FitOptions]] = []

    def record(vi: avi.AmortizedVI, x: Observations, options: FitOptions) -> None:
        assert len(vi.evaluate(x, particles=2)) == x.size == len(X)
        calls.append((vi, options))

    monkeypatch.setattr(avi.AmortizedVI, "after_fit", [*avi.AmortizedVI.after_fit, record])
    vi = make_vi().setup(X, seed=0)
    with pytest.raises(DataError):
        vi.fit(X.double(), progress=False)
    assert calls == []
    for epochs in (1, 2):
        vi.fit(X, epochs=epochs, seed=0, progress=False)
    assert [(owner is vi, options.epochs, options.seed) for owner, options in calls] == [(True, 1, 0), (True, 2, 0)]
