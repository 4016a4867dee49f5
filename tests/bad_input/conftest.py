"""A fitted estimator to call with bad input."""

import copy

import pytest

import amortvi as avi
from tests.bad_input.helpers import data, estimator, fit


@pytest.fixture(scope="package")
def trained() -> avi.AmortizedVI:
    return fit(estimator(), data(), epochs=2)


@pytest.fixture
def fitted(trained: avi.AmortizedVI) -> avi.AmortizedVI:
    """An estimator of its own for each test, after two epochs."""
    return copy.deepcopy(trained)
