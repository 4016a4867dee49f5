"""The choice of a family: a name, a class or an object with options."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from amortvi.errors import AmortviError, FamilyError, quoted
from amortvi.families.base import Family

__all__ = ["NAMED", "FamilyChoice", "family_label", "make_family", "resolve_family"]

FamilyChoice: TypeAlias = str | Family | Callable[[], Family]
"""A name in `NAMED`; a family with its options, such as ``LowRank(rank=5)``; or a callable that returns one, such as a class."""

NAMED: dict[str, Callable[[], Family]] = {}
"""The families that can be chosen by name; the package ``amortvi.families`` fills it."""


def resolve_family(choice: FamilyChoice) -> Family:
    """Return the chosen family before setup; a given family is copied.

    Raises:
        FamilyError: the choice is neither a known name nor a family.
    """
    if isinstance(choice, Family):
        return copy.deepcopy(choice)
    if isinstance(choice, str) and choice in NAMED:
        return NAMED[choice]()
    if isinstance(choice, str) or not callable(choice):
        raise FamilyError(
            f"family must be one of {sorted(NAMED)} or a Family such as families.LowRank(rank=5); got {choice!r}."
        )
    try:
        family = choice()
    except AmortviError:
        raise
    except Exception as error:  # a user's callable can raise anything; the message says how it was called
        raise FamilyError(f"family={choice!r} failed when called without arguments: {quoted(error)}") from error
    if not isinstance(family, Family):
        raise FamilyError(f"family={choice!r} must return a families.Family; it returned {type(family).__name__}.")
    return family


def make_family(
    choice: FamilyChoice, dim: int, context_features: int, sites: Mapping[str, torch.Size] | None = None
) -> Family:
    """Return the chosen family, set up.

    Args:
        choice: see `FamilyChoice`.
        dim: the size of the unconstrained latent vector of one observation.
        context_features: the size of the encoder's output for one observation.
        sites: the unconstrained shapes of the latent sites; see `Family.setup`.

    Raises:
        FamilyError: the choice is unknown, or cannot be built for these sizes.

    Example:
        >>> make_family("full", dim=3, context_features=8).num_parameters
        9
    """
    return resolve_family(choice).setup(dim, context_features, sites)


def family_label(choice: FamilyChoice) -> str:
    """Return the name under which tables list a family.

    Example:
        >>> from amortvi.families import LowRank
        >>> family_label("full"), family_label(LowRank), family_label(LowRank(rank=5))
        ('full', 'LowRank', 'LowRank(rank=5)')
    """
    return choice if isinstance(choice, str) else repr(resolve_family(choice)).removesuffix("()")
