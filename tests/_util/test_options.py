"""Methods that accept the fields of an options dataclass as keyword arguments."""

import inspect
from dataclasses import dataclass

import pytest

from amortvi._util.options import accepts_options, make_options
from amortvi.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options.

    Args:
        epochs: passes over the data.
        lr: the learning rate; a ``backslash``
            on two lines: \\d.

    Raises:
        OptionError: ``epochs`` is negative.
    """

    epochs: int = 10
    lr: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise OptionError("epochs must not be negative.")


class Owner:
    @accepts_options(Options)
    def fit(self, x: object, options: Options) -> tuple[object, Options]:
        """Fit.

        Args:
            x: the data.
            options: the fields of `Options`.

        Returns:
            Both.
        """
        return x, options


def test_fields_become_keyword_arguments() -> None:
    assert Owner().fit("data", epochs=3) == ("data", Options(epochs=3))
    assert Owner().fit("data") == ("data", Options())


def test_signature_and_docstring_list_the_fields() -> None:
    assert str(inspect.signature(Owner.fit)).startswith("(self, x: object, *, epochs: ")
    assert Owner.fit.__name__ == "fit"
    lines = [line.strip() for line in inspect.getdoc(Owner.fit).splitlines()]
    assert lines[2:8] == [
        "Args:",
        "x: the data.",
        "epochs: passes over the data.",
        "lr: the learning rate; a ``backslash``",
        "on two lines: \\d.",
        "",
    ]


def test_unknown_options_suggest_the_closest_one() -> None:
    with pytest.raises(OptionError, match=r"epoch is not an option\. Did you mean epochs"):
        Owner().fit("data", epoch=3)
    with pytest.raises(OptionError, match=r"patience is not an option\. The options are epochs, lr\."):
        make_options(Options, patience=3)


def test_values_are_checked_by_the_dataclass() -> None:
    with pytest.raises(OptionError, match="epochs"):
        Owner().fit("data", epochs=-1)
