"""Posterior families ``q(z | x)``: from the context of an observation to a distribution of its latent vector.

To add one: a file here with a `Family`, an import and a row of `NAMED` below, a row in ``tests/families/cases.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from amortvi.errors import AmortviError, FamilyError, quoted
from amortvi.families.base import Family, GaussianFamily
from amortvi.families.diagonal import Diagonal
from amortvi.families.full_covariance import FullCovariance
from amortvi.families.gaussian import Gaussian, ScaleOperator
from amortvi.families.low_rank import LowRank, LowRankFamily

__all__ = [
    "NAMED",
    "Diagonal",
    "Family",
    "FamilyChoice",
    "FullCovariance",
    "Gaussian",
    "GaussianFamily",
    "LowRank",
    "LowRankFamily",
    "ScaleOperator",
    "family_label",
    "make_family",
]

FamilyFactory: TypeAlias = Callable[[int, int], Family]
FamilyChoice: TypeAlias = str | FamilyFactory
"""A name in `NAMED`, or a callable ``(dim, context_features) -> Family``."""


def _low_rank(dim: int, context_features: int) -> Family:
    return LowRank(max(1, round(dim**0.5)))(dim, context_features)


NAMED: dict[str, FamilyFactory] = {
    "diagonal": Diagonal,
    "low_rank": _low_rank,
    "full": FullCovariance,
}
"""The families that can be chosen by name; ``"low_rank"`` takes the square root of the dimension as its rank."""


def resolve(choice: FamilyChoice) -> FamilyFactory:
    """Return the callable that ``choice`` stands for.

    Raises:
        FamilyError: ``choice`` is neither a known name nor callable.
    """
    if isinstance(choice, str):
        if choice not in NAMED:
            raise FamilyError(f"family must be one of {sorted(NAMED)} or a callable; got {choice!r}.")
        return NAMED[choice]
    if isinstance(choice, Family):
        raise FamilyError(
            f"family must be a name or a callable, since the number of latents is only known from the model; got a "
            f"{type(choice).__name__} that is made already: give the class, or lambda dim, context_features: "
            f"{type(choice).__name__}(dim, context_features, ...)."
        )
    if not callable(choice):
        raise FamilyError(
            f"family must be one of {sorted(NAMED)} or a callable (dim, context_features) -> Family, such as "
            f"families.FullCovariance or families.LowRank(5); got {choice!r}."
        )
    return choice


def make_family(choice: FamilyChoice, dim: int, context_features: int) -> Family:
    """Build the chosen family.

    Args:
        choice: a name in `NAMED` or a callable ``(dim, context_features) -> Family``.
        dim: the size of the unconstrained latent vector of one observation.
        context_features: the size of the encoder's output for one observation.

    Returns:
        The family, an `nn.Module` with fresh parameters.

    Raises:
        FamilyError: the choice is unknown, out of range for ``dim``, or returns no `Family`.

    Example:
        >>> make_family("full", dim=3, context_features=8).num_parameters
        9
    """
    try:
        family = resolve(choice)(dim, context_features)
    except AmortviError:
        raise
    except Exception as error:
        # Whatever a user's callable raises, the user wants to know what it was called with.
        raise FamilyError(
            f"family={choice!r} failed when it was called as family(dim={dim}, context_features={context_features}), with "
            f"two positional arguments: {quoted(error)}"
        ) from error
    if not isinstance(family, Family):
        raise FamilyError(f"family={choice!r} must return a families.Family; it returned {type(family).__name__}.")
    return family


def family_label(choice: FamilyChoice) -> str:
    """Return the name under which tables show ``choice``."""
    if isinstance(choice, str):
        return choice
    if isinstance(choice, partial):
        options = ", ".join(f"{name}={value!r}" for name, value in choice.keywords.items())
        return f"{family_label(choice.func)}({options})"
    return getattr(choice, "__name__", None) or repr(choice)
