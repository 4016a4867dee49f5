"""Estimators whose posteriors are set by hand."""

import pytest

import amortvi as avi
from tests.exact import solved
from tests.posterior.problem import MODEL, WIDEN


@pytest.fixture(scope="session")
def exact() -> avi.AmortizedVI:
    """The exact posterior."""
    return solved(MODEL)


@pytest.fixture(scope="session")
def wide() -> avi.AmortizedVI:
    """A posterior with three times the exact covariance: its gap is known, and its weights have finite variance."""
    return solved(MODEL, widen=WIDEN)
