"""The error classes: each is an `AmortviError` and a built-in error, and only `NonFiniteError` catches another."""

import inspect
import pickle

import pytest

from amortvi import errors
from amortvi.errors import AmortviError, AmortviWarning, quoted

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, BaseException)]
ERRORS = [each for each in CLASSES if not issubclass(each, Warning) and each is not AmortviError]

BUILTINS = {
    "CaptureError": RuntimeError,
    "CheckpointError": ValueError,
    "ConcurrentFitError": RuntimeError,
    "DataError": ValueError,
    "DistributedError": RuntimeError,
    "EncoderError": ValueError,
    "FamilyError": ValueError,
    "MissingDependencyError": ImportError,
    "ModelError": ValueError,
    "NonFiniteError": ArithmeticError,
    "NotFittedError": RuntimeError,
    "OptionError": ValueError,
    "TrainingDiverged": ArithmeticError,
    "VerificationError": RuntimeError,
}
"""What callers who know nothing about amortvi would catch."""


def test_all_are_exported() -> None:
    assert {each.__name__ for each in CLASSES} == set(errors.__all__)
    assert {each.__name__ for each in ERRORS} == BUILTINS.keys()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_is_an_amortvi_error_and_a_builtin(error: type[Exception]) -> None:
    assert issubclass(error, AmortviError)
    assert issubclass(error, BUILTINS[error.__name__])
    kinds = [] if error is errors.NonFiniteError else ERRORS  # one of training is still one of numbers
    assert not any(issubclass(other, error) for other in kinds if other is not error)
    assert error.__doc__
    copied = pickle.loads(pickle.dumps(error("the message")))  # as it arrives from a worker process
    assert type(copied) is error
    assert str(copied) == "the message"


def test_base_and_warning() -> None:
    assert not issubclass(AmortviError, ValueError)
    assert issubclass(AmortviWarning, UserWarning)
    assert not issubclass(AmortviWarning, AmortviError)


def test_quoted_errors_are_cut() -> None:
    assert quoted(ValueError("one\ntwo")) == "ValueError: one\ntwo"
    assert quoted(ValueError("\n".join("abcd")), lines=2) == "ValueError: a\nb\n... (2 more lines)"
