"""Methods that accept the fields of an options dataclass as keyword arguments, and how objects show their options."""

import inspect
from dataclasses import dataclass

import pytest

from amortvi._util.keyword_options import accepts_options, make_options, options_repr
from amortvi.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options.

    Args:
        epochs: passes over the data.
        lr: the learning rate; a ``backslash``
            on two lines: \\d.

    Raises:
        OptionError: an option is out of range.
    """

    epochs: int = 10
    lr: float = 0.1


class Owner:
    @accepts_options(Options)
    def fit(self, x: object, options: Options) -> tuple[object, Options]:
        """Fit.

        Args:
            x: the data.
            options: the fields of `Options`.
        """
        return x, options


def test_fields_become_keyword_arguments() -> None:
    assert Owner().fit("data", epochs=3) == ("data", Options(epochs=3))
    assert str(inspect.signature(Owner.fit)).startswith("(self, x: object, *, epochs: ")
    assert [line.strip() for line in inspect.getdoc(Owner.fit).splitlines()[3:]] == [
        "x: the data.",
        "epochs: passes over the data.",
        "lr: the learning rate; a ``backslash``",
        "on two lines: \\d.",
    ]


def test_unknown_options_suggest_the_closest_one() -> None:
    with pytest.raises(OptionError, match=r"epoch is not an option\. Did you mean epochs"):
        Owner().fit("data", epoch=3)
    with pytest.raises(OptionError, match=r"patience is not an option\. The options are epochs, lr\."):
        make_options(Options, patience=3)


def test_required_options_and_those_that_differ_from_their_defaults_are_shown() -> None:
    class Loss:
        def __init__(self, power: float, *, weight: object = 1.0, kind: object = None) -> None:
            self.power, self.weight, self.kind = power, weight, kind

    assert options_repr(Loss(2, weight=1.0)) == "Loss(power=2)"
    assert options_repr(Loss(2, weight="cosine", kind=Loss)) == "Loss(power=2, weight='cosine', kind=Loss)"
