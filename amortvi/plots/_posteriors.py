"""The check of a posterior that is given."""

from __future__ import annotations

from typing import Any

from amortvi.errors import OptionError
from amortvi.posterior import Posterior

__all__ = ["check_posterior"]


def check_posterior(posterior: Any) -> Posterior:
    """Return ``posterior``, or raise `OptionError` if it is something else, such as the estimator."""
    if not isinstance(posterior, Posterior):
        raise OptionError(
            f"posterior must be the Posterior that vi.posterior(x) returns; got {type(posterior).__name__}."
        )
    return posterior
