"""The errors: each is ours and Python's own kind, all are there to be caught."""

import inspect
import pickle

import pytest

import amortvi
from amortvi import errors
from amortvi.errors import AmortviError, AmortviWarning

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, BaseException)]
ERRORS = [each for each in CLASSES if not issubclass(each, Warning) and each is not AmortviError]

# What a caller who knows nothing of amortvi would expect to catch.
BUILTINS = {
    "CaptureError": RuntimeError,
    "CheckpointError": ValueError,
    "DataError": ValueError,
    "EncoderError": ValueError,
    "FamilyError": ValueError,
    "MissingDependencyError": ImportError,
    "ModelError": ValueError,
    "NonFiniteError": ArithmeticError,
    "NotFittedError": RuntimeError,
    "OptionError": ValueError,
}


def test_all_are_exported() -> None:
    assert {each.__name__ for each in CLASSES} <= set(errors.__all__)
    assert amortvi.errors is errors
    assert "errors" in amortvi.__all__


def test_none_is_forgotten_here() -> None:
    assert sorted(each.__name__ for each in ERRORS) == sorted(BUILTINS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_is_ours_and_a_builtin(error: type[Exception]) -> None:
    assert issubclass(error, AmortviError)
    assert issubclass(error, BUILTINS[error.__name__])
    assert error.__doc__
    with pytest.raises(BUILTINS[error.__name__], match="what was wrong") as caught:
        raise error("what was wrong")
    copied = pickle.loads(pickle.dumps(caught.value))  # as it comes back from a worker process
    assert type(copied) is error
    assert str(copied) == "what was wrong"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_no_error_catches_another(error: type[Exception]) -> None:
    assert not any(issubclass(other, error) for other in ERRORS if other is not error)


def test_base_and_warning() -> None:
    assert issubclass(AmortviError, Exception)
    assert not issubclass(AmortviError, ValueError)
    assert issubclass(AmortviWarning, UserWarning)
    assert not issubclass(AmortviWarning, AmortviError)


def test_every_public_name_is_there() -> None:
    modules = [
        amortvi,
        *(getattr(amortvi, name) for name in amortvi.__all__ if inspect.ismodule(getattr(amortvi, name))),
    ]
    for module in modules:
        assert list(module.__all__) == sorted(set(module.__all__), key=list(module.__all__).index), module
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"
