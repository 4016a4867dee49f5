"""The conformance suite of posterior families: checks that every family must pass, to run on your own.

Each check takes a `families.FamilyChoice` and raises `AssertionError` if the family violates the contract. Closed forms (see
``amortvi.families.closed_forms``) are checked if they are known, parameters only of a `families.ParametricFamily`. Statistical
checks use a fixed seed and allow for five standard errors. The family is set up with a head, for one to four latent dimensions.

Example:
    >>> import amortvi as avi
    >>> for check in avi.testing.FAMILY_CHECKS:
    ...     check(avi.families.FullCovariance)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from amortvi._util.random import random_state
from amortvi.families import FamilyChoice
from amortvi.testing.families.contract import (
    check_batch_shapes,
    check_copies,
    check_extreme_parameters,
    check_independence,
    check_parameters,
    check_parameters_near,
    check_setup,
    check_start,
)
from amortvi.testing.families.densities import (
    check_expand,
    check_kl_and_entropy,
    check_marginals,
    check_moments,
    check_normalization,
)
from amortvi.testing.families.gradients import check_gradients, check_own_draws, check_pathwise_gradient

__all__ = ["FAMILY_CHECKS"]


def _seeded(check: Callable[[FamilyChoice], None]) -> Callable[[FamilyChoice], None]:
    @functools.wraps(check)
    def run(choice: FamilyChoice) -> None:
        with random_state(20_240_229):
            check(choice)

    return run


FAMILY_CHECKS: tuple[Callable[[FamilyChoice], None], ...] = tuple(
    _seeded(check)
    for check in (
        check_setup,
        check_batch_shapes,
        check_independence,
        check_gradients,
        check_own_draws,
        check_pathwise_gradient,
        check_normalization,
        check_moments,
        check_marginals,
        check_kl_and_entropy,
        check_expand,
        check_copies,
        check_start,
        check_parameters,
        check_parameters_near,
        check_extreme_parameters,
    )
)
"""All checks, ``(choice) -> None``; they leave the caller's random state untouched."""
