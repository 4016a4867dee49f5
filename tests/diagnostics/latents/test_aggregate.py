"""Draws from the aggregate posterior, and its density."""

import math

import pytest
import torch

from amortvi._util.random import random_state
from amortvi.diagnostics.latents.aggregate import draw_aggregate, mutual_information
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(500, seed=1)


@pytest.mark.parametrize(("rows", "points"), [(7, 105), (500, 100)])
def test_observations_contribute_equally(rows, points):
    posterior = solved(MODEL).posterior(X[:rows])
    with random_state(0):
        drawn = draw_aggregate(posterior, 100)
    assert drawn.vector.shape == drawn.prior.shape == (points, 3)
    assert drawn.log_prob.shape == (points,)


def test_control_variate_has_mean_zero():
    with random_state(0):
        control = draw_aggregate(solved(MODEL).posterior(X), 2000).control
    assert abs(float(control.mean())) < 5 * float(control.std()) / math.sqrt(2000)


def test_mutual_information_compares_each_posterior_with_the_mixture():
    exact, posterior = MODEL.posterior(X[:20]), solved(MODEL).posterior(X[:20])
    with random_state(0):
        drawn = draw_aggregate(posterior, 1000)
    mixture = torch.logsumexp(exact.log_prob(drawn.vector.unsqueeze(1)), dim=1) - math.log(20)
    terms = drawn.log_prob - mixture
    found, error = mutual_information(posterior, drawn)
    assert error < float(terms.std()) / math.sqrt(1000)  # the control variate reduces the variance
    assert abs(found - float(terms.mean())) < 5 * float(terms.std()) / math.sqrt(1000)
