"""Mixtures that have no density over the real numbers, or no common support."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.errors import ModelError
from tests.bad_input.helpers import LATENTS, data, estimator, observe, refused

ZEROS, ONES = torch.zeros(LATENTS), torch.ones(LATENTS)
MASK = torch.tensor([True, False])


def mixture(components: Any) -> Any:
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), components)


PRIORS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "points": (lambda: mixture(dist.Delta(torch.zeros(3, LATENTS)).to_event(1)), ("contains a point (Delta)",)),
    "a spike and a slab": (
        lambda: dist.MaskedMixture(MASK, dist.Normal(ZEROS, ONES), dist.Delta(ZEROS)).to_event(1),
        ("contains a point (Delta)",),
    ),
    "angles": (
        lambda: mixture(dist.VonMises(torch.zeros(3, LATENTS), 1.0).to_event(1)),
        ("contains an angle (VonMises)", "torch.atan2"),
    ),
    "skewed angles": (
        lambda: dist.SineSkewed(dist.VonMises(ZEROS, ONES).to_event(1), ZEROS),
        ("contains an angle (VonMises)", "torch.atan2"),
    ),
    "two angles": (
        lambda: dist.SineBivariateVonMises(0.0, 0.0, 1.0, 1.0, 0.1),
        ("is an angle (SineBivariateVonMises)", "torch.atan2"),
    ),
    "spheres": (
        lambda: mixture(dist.ProjectedNormal(torch.ones(3, LATENTS))),
        ("another support",),
    ),
    "discrete": (
        lambda: mixture(dist.Poisson(torch.ones(3, LATENTS)).to_event(1)),
        ("is discrete (MixtureSameFamily)",),
    ),
    "different supports": (
        lambda: dist.MaskedMixture(MASK, dist.Normal(ZEROS, ONES), dist.LogNormal(ZEROS, ONES)).to_event(1),
        ("differs between the components", "Real()", "same support"),
    ),
    "intervals of different lengths": (
        lambda: mixture(dist.Uniform(0.0, torch.arange(1.0, 4.0).unsqueeze(1).expand(3, LATENTS)).to_event(1)),
        ("differs between the components", "upper_bound"),
    ),
}


@pytest.mark.parametrize("case", PRIORS)
def test_mixtures_that_are_refused(case: str) -> None:
    make, facts = PRIORS[case]

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            observe(pyro.sample("z", make()), x)

    with refused(ModelError, "latent site 'z'", *facts):
        estimator(model).setup(data(), seed=0)
