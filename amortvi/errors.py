"""The errors that amortvi raises: each names the argument, what was got, what was expected, what to do."""

from __future__ import annotations

__all__ = [
    "AmortviError",
    "AmortviWarning",
    "CaptureError",
    "CheckpointError",
    "DataError",
    "EncoderError",
    "FamilyError",
    "MissingDependencyError",
    "ModelError",
    "NonFiniteError",
    "NotFittedError",
    "OptionError",
]


class AmortviError(Exception):
    """Base of every error that amortvi raises on purpose."""


class DataError(AmortviError, ValueError):
    """The observations cannot be used: empty, not finite, of different lengths, of a wrong type or shape."""


class ModelError(AmortviError, ValueError):
    """The Pyro model is outside what amortized inference can take, for instance it has no plate."""


class EncoderError(AmortviError, ValueError):
    """The encoder fails on the observations or returns something other than a ``(B, C)`` context."""


class FamilyError(AmortviError, ValueError):
    """The posterior family is unknown, or was given options out of range."""


class OptionError(AmortviError, ValueError):
    """An option, such as ``epochs`` or ``lr``, has a value out of range."""


class NotFittedError(AmortviError, RuntimeError):
    """The call needs a guide that has seen data; call ``fit`` (or ``load``) first."""


class NonFiniteError(AmortviError, ArithmeticError):
    """Training met a loss that is not finite; the last good parameters were kept."""


class CaptureError(AmortviError, RuntimeError):
    """A training step cannot be recorded or compiled; run it with ``compile=False``."""


class CheckpointError(AmortviError, ValueError):
    """A saved run does not belong to this model, encoder or family, or cannot be read."""


class MissingDependencyError(AmortviError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class AmortviWarning(UserWarning):
    """Something that deserves a look but does not stop the work."""


def quoted(error: BaseException, lines: int = 12) -> str:
    """Return an error's type and message for another message; a long one, which may print whole tensors, is cut.

    Example:
        >>> quoted(KeyError("z"))
        "KeyError: 'z'"
    """
    text = str(error).splitlines()
    left_out = [f"... ({len(text) - lines} lines more)"] if len(text) > lines else []
    return f"{type(error).__name__}: " + "\n".join([*text[:lines], *left_out])
