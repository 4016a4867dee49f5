"""Exports that several tests examine."""

from typing import Any, NamedTuple

import pytest

import amortvi as avi
from tests.exact import solved
from tests.io.exports import DRAWS, EXACT, MODELS, PRIOR_DRAWS, X


class Export(NamedTuple):
    """An export, with the estimator and the observations."""

    name: str
    vi: avi.AmortizedVI
    x: Any
    data: Any


@pytest.fixture(scope="package", params=MODELS)
def exported(request: pytest.FixtureRequest) -> Export:
    model, features, x = MODELS[request.param]()
    vi = avi.AmortizedVI(model, avi.encoders.MLP(features, [8]), "full").fit(x, epochs=1, progress=False, seed=0)
    return Export(request.param, vi, x, vi.to_arviz(x, draws=DRAWS, prior_draws=PRIOR_DRAWS, seed=0))


@pytest.fixture(scope="package")
def exact() -> Export:
    """An export of exact posteriors."""
    vi = solved(EXACT)
    return Export("exact", vi, X, vi.to_arviz(X, draws=50, prior_draws=20, seed=0))
