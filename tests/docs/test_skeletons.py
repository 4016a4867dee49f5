"""The skeletons of CONTRIBUTING.md pass the conformance suites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from matplotlib import pyplot

import amortvi as avi
from tests.docs.pages import blocks
from tests.exact import linear_gaussian, solved


@pytest.fixture(scope="module")
def skeletons() -> dict[str, Any]:
    """What CONTRIBUTING.md defines."""
    namespace: dict[str, Any] = {"__name__": __name__}
    for block in blocks("CONTRIBUTING.md"):
        if block.runs and ("\nclass " in block.code or "\ndef " in block.code):
            exec(block.compiled(), namespace)
    return namespace


@pytest.mark.parametrize("check", avi.testing.FAMILY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["Bidiagonal", "Laplace"])
def test_family_skeleton(
    name: str, check: Callable[[avi.families.FamilyChoice], None], skeletons: dict[str, Any]
) -> None:
    check(skeletons[name]())


def test_bidiagonal_skeleton_agrees_with_torch(skeletons: dict[str, Any]) -> None:
    family = skeletons["Bidiagonal"]().setup(4, 3).double()
    q = family.distribution(torch.linspace(-1.0, 1.0, 22, dtype=torch.float64).reshape(2, 11))
    reference = torch.distributions.MultivariateNormal(q.mean, q.covariance_matrix)
    z = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(3, 2, 4)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    far = torch.ones_like(q.covariance_matrix).triu(2).bool()
    assert (q.covariance_matrix[far] == 0).all()


@pytest.mark.parametrize("check", avi.testing.OBJECTIVE_CHECKS, ids=lambda check: check.__name__)
def test_objective_skeleton(check: Callable[[avi.objectives.Objective], None], skeletons: dict[str, Any]) -> None:
    check(skeletons["Combined"](5))


def test_diagnostic_skeleton(skeletons: dict[str, Any]) -> None:
    model = linear_gaussian()
    found = skeletons["contraction"](solved(model), model.simulate(5, seed=0), site="z").to_frame()
    expected = torch.linalg.inv(model.precision()).diagonal().sqrt()
    # The standard deviation of the prior, one, is estimated from 10,000 draws: five standard errors.
    torch.testing.assert_close(torch.tensor(found.to_numpy()), expected.expand(5, -1), rtol=5 / 20_000**0.5, atol=0)


def test_plot_skeleton(skeletons: dict[str, Any]) -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [0.5]]), scale=1.0)
    x = model.simulate(20, seed=0)
    posterior = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(x, seed=0).posterior(x)
    ax = pyplot.subplots()[1]
    assert skeletons["plot_intervals"](posterior, site="z", ax=ax) is ax
    expected = posterior.median["z"].flatten().sort().values
    torch.testing.assert_close(torch.as_tensor(ax.lines[0].get_ydata()), expected.double())
    with pytest.raises(avi.errors.OptionError, match=r"one of \['z'\]; got 'w'"):
        skeletons["plot_intervals"](posterior, site="w")
