"""Every error that amortvi raises, one class per kind of mistake.

A message names the argument, what was given, what is expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AmortviError",
    "AmortviWarning",
    "CaptureError",
    "CheckpointError",
    "ConcurrentFitError",
    "ConvergenceWarning",
    "DataError",
    "DistributedError",
    "EncoderError",
    "FamilyError",
    "MissingDependencyError",
    "ModelError",
    "NonFiniteError",
    "NotFittedError",
    "OptionError",
    "TrainingDiverged",
    "VerificationError",
    "VerificationWarning",
]


class AmortviError(Exception):
    """Base class of all errors raised by amortvi."""


class DataError(AmortviError, ValueError):
    """The observations cannot be used: empty, not finite, of unequal lengths, or of the wrong type or shape."""


class ModelError(AmortviError, ValueError):
    """The Pyro model is not supported, for example because it has no plate."""


class EncoderError(AmortviError, ValueError):
    """The encoder fails on the observations or does not return a ``(B, C)`` context."""


class FamilyError(AmortviError, ValueError):
    """The posterior family is unknown, has invalid options, or does not support the computation."""


class OptionError(AmortviError, ValueError):
    """An option, such as ``epochs`` or ``lr``, has an invalid value."""


class NotFittedError(AmortviError, RuntimeError):
    """No data have been seen; call ``fit``, ``setup`` or ``load`` first."""


class NonFiniteError(AmortviError, ArithmeticError):
    """A loss, gradient or log density is NaN or infinite; the last good parameters were kept."""


class TrainingDiverged(NonFiniteError):  # noqa: N818  # the name says what has happened
    """A loss or gradient is NaN or infinite during training; the parameters are those before the epoch.

    Attributes:
        epoch: the number of the epoch.
        step: the number of the step in the epoch, from 1.
        sites: the sites whose term of the objective is not finite; empty if all terms are, but not the gradient.
        rows: the positions of the observations in ``x``, or in the minibatch if a loader provides it; empty if all are involved.
    """

    def __init__(
        self, message: str, *, epoch: int = 0, step: int = 0, sites: Sequence[str] = (), rows: Sequence[int] = ()
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.sites = list(sites)
        self.rows = list(rows)


class ConcurrentFitError(AmortviError, RuntimeError):
    """An estimator is being fitted in another thread."""


class DistributedError(AmortviError, RuntimeError):
    """Another process of a distributed fit has failed, or no longer answers; the last good parameters were kept."""


class CaptureError(AmortviError, RuntimeError):
    """A training step cannot be recorded or compiled; use ``compile=False``."""


class VerificationError(AmortviError, RuntimeError):
    """A compiled training step differs from the step that it replaces, and ``verify="error"``."""


class CheckpointError(AmortviError, ValueError):
    """A saved run cannot be read, or does not match this model, encoder or family."""


class MissingDependencyError(AmortviError, ImportError):
    """An optional dependency is not installed; the message names the extra that provides it."""


class AmortviWarning(UserWarning):
    """Something that deserves attention but does not stop the computation."""


class ConvergenceWarning(AmortviWarning):
    """A fit is used that has not converged, so a loss may be the optimizer's and not the family's."""


class VerificationWarning(AmortviWarning):
    """A compiled training step differs from the step that it replaces, so numbers since its last verification may be wrong."""


def quoted(error: BaseException, lines: int = 12) -> str:
    """Return the type and the first lines of the message of an error, for use in another message.

    Example:
        >>> quoted(KeyError("z"))
        "KeyError: 'z'"
    """
    text = str(error).splitlines()
    omitted = [f"... ({len(text) - lines} more lines)"] if len(text) > lines else []
    return f"{type(error).__name__}: " + "\n".join([*text[:lines], *omitted])
