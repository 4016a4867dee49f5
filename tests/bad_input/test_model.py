"""Models that amortized inference does not support: the site or plate at fault, and what to write instead."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

import amortvi as avi
from amortvi.errors import ModelError
from tests.bad_input.helpers import (
    FEATURES,
    LATENTS,
    data,
    decoded,
    estimator,
    fit,
    network,
    nothing_changes,
    observe,
    prior,
    refused,
)

# ------------------------------------------------------------------------------ plates


def without_plate(x: Tensor) -> None:
    observe(pyro.sample("z", prior()), x)


def two_candidates(x: Tensor) -> None:
    with pyro.plate("a", x.shape[0], dim=-1):
        z = pyro.sample("z", prior())
    with pyro.plate("b", x.shape[0], dim=-1):
        observe(z + pyro.sample("w", prior()), x)


def constant_size(x: Tensor) -> None:
    with pyro.plate("data", 50):
        observe(pyro.sample("z", prior()), x)


def own_subsample(x: Tensor) -> None:
    with pyro.plate("data", 1000, subsample_size=x.shape[0]):
        observe(pyro.sample("z", prior()), x)


def own_subsample_as_index(x: Tensor) -> None:
    with pyro.plate("data", 1000, subsample_size=16) as rows:
        observe(pyro.sample("z", prior()), x[rows])


def loop(x: Tensor) -> None:
    for i in pyro.plate("data", x.shape[0]):
        observe(pyro.sample(f"z{i}", prior()), x[i], f"x{i}")


def nested_subsample(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", 9, subsample_size=3, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


# ------------------------------------------------------------------------------ latents


def no_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", prior(FEATURES), obs=x)


def no_latent_in_plate(x: Tensor) -> None:
    z = pyro.sample("z", prior())
    with pyro.plate("data", x.shape[0]):
        observe(z.expand(x.shape[0], LATENTS), x)


def latent_outside(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior()) + w, x)


def discrete_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        observe(z + pyro.sample("k", dist.Bernoulli(0.3))[:, None], x)


def latent_under_mask(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        # True everywhere on the example, but perhaps not on the next batch.
        with poutine.mask(mask=x[:, 0] > -1e6):
            z = pyro.sample("z", prior())
        observe(z, x)


def masked_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior().mask(x[:, 0] > 0)), x)


def learned_bound(x: Tensor) -> None:
    high = pyro.param("high", torch.tensor(2.0), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Uniform(torch.zeros(LATENTS), high).to_event(1)), x)


def bound_from_data(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Uniform(torch.zeros(LATENTS), x[:, :1].abs() + 1).to_event(1)), x)


def point(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Delta(torch.zeros(LATENTS)).to_event(1)), x)


def angle(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.VonMises(torch.zeros(LATENTS), 1.0).to_event(1)), x)


def on_a_sphere(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.ProjectedNormal(torch.ones(LATENTS))), x)


def two_sites_of_one_name(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior()) + pyro.sample("z", prior()), x)


# ------------------------------------------------------------------------------ observed sites


def observed_in_another_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
    with pyro.plate("rows", x.shape[0]):
        observe(z, x)


def observed_outside(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
    pyro.sample("x", dist.Normal(decoded(z), 0.5).to_event(2), obs=x)


def nothing_observed(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.deterministic("twice", 2 * pyro.sample("z", prior()))


def obs_mask(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(decoded(z), 0.5).to_event(1), obs=x, obs_mask=x[:, 0] > 0)


def raises(x: Tensor) -> None:
    raise KeyError("the user's own")


def wrong_shape(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior()), 0.5).to_event(1), obs=x)


MODELS: dict[Callable[[Tensor], None], tuple[str, ...]] = {
    without_plate: ("no plate", 'with pyro.plate("data", x.shape[0])'),
    two_candidates: ("several plates", "40", "['a', 'b']", "plate=..."),
    constant_size: ("no plate", "40 observations", "'data' of size 50", "x.shape[0]"),
    own_subsample: ("plate 'data'", "subsample", "x.shape[0]", "subsample=x"),
    own_subsample_as_index: ("plate 'data'", "subsample", "x.shape[0]", "subsample=x"),
    loop: ("plate 'data' is a Python loop", "with pyro.plate('data', x.shape[0])"),
    nested_subsample: ("latent site 'z'", "plate 'parts'", "3 of 9", "complete"),
    no_latent: ("no latent site", "obs="),
    no_latent_in_plate: ("plate 'data' contains no latent", "['z']", "inside the plate"),
    latent_outside: ("latent site 'w'", "outside plate 'data'", "parameter", "inside the plate"),
    discrete_latent: ("latent site 'k' is discrete (Bernoulli)", "MixtureSameFamily", "logsumexp", "obs="),
    latent_under_mask: ("latent site 'z' is masked", "observed sites"),
    masked_latent: ("latent site 'z' is masked", "observed sites"),
    learned_bound: ("latent site 'z'", "upper_bound", "fixed support"),
    bound_from_data: ("latent site 'z'", "upper_bound", "fixed support"),
    point: ("latent site 'z' is a point (Delta)", "pyro.deterministic"),
    angle: ("latent site 'z' is an angle (VonMises)", "torch.atan2"),
    on_a_sphere: ("support", "latent site 'z'", "another support"),
    two_sites_of_one_name: ("several sites named 'z'",),
    observed_in_another_plate: ("observed site 'x'", "plate 'rows'", "plate 'data'"),
    observed_outside: ("observed site 'x'", "no plate", "plate 'data'"),
    nothing_observed: ("nothing is observed inside plate 'data'", "obs=x"),
    obs_mask: ("site 'x' has obs_mask=", "with pyro.poutine.mask(mask=mask)"),
    raises: ("the model failed on x of shape (40, 3) and torch.float32", "KeyError", "the user's own"),
    wrong_shape: ("the model failed on x of shape (40, 3)", "site 'x'"),
}


@pytest.mark.filterwarnings("ignore:.*has no names in common:UserWarning")
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_unsupported_models(model: Callable[[Tensor], None]) -> None:
    vi = estimator(model)
    with nothing_changes(), refused(ModelError, *MODELS[model]):
        fit(vi, data())
    assert vi.history.empty
    with nothing_changes(), refused(ModelError, *MODELS[model]):
        estimator(model).setup(data(), seed=0)
    guide = avi.AmortizedGuide(poutine.block(model, hide_types=["param"]), network())
    with refused(ModelError, *MODELS[model]):
        guide(data())
    pyro.clear_param_store()


def test_the_plate_can_be_named() -> None:
    with refused(ModelError, "latent site 'w'", "outside plate 'a'"):
        fit(estimator(two_candidates, plate="a"), data())
    with refused(ModelError, "plate='rows' is not in the model", "'a' of size 40, 'b' of size 40"):
        fit(estimator(two_candidates, plate="rows"), data())


def test_a_nested_plate_of_batch_size() -> None:
    def model(x: Tensor, *, inner: bool) -> None:
        with pyro.plate("data", x.shape[0], dim=-2):
            level = 0.0 if inner else pyro.sample("level", dist.Normal(0.0, 1.0))
            with pyro.plate("parts", FEATURES, dim=-1):
                part = pyro.sample("part", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(level + part, 1.0), obs=x)

    # Only the data plate contains every latent.
    vi = estimator(lambda x: model(x, inner=False)).setup(data(FEATURES))
    assert vi.generative.structure.plate == "data"
    with refused(ModelError, "several plates", "['data', 'parts']", "plate=..."):
        estimator(lambda x: model(x, inner=True)).setup(data(FEATURES))
    named = estimator(lambda x: model(x, inner=True), plate="data").setup(data(FEATURES))
    assert named.generative.structure.plate == "data"


def test_long_errors_are_cut() -> None:
    def model(x: Tensor) -> None:
        raise ValueError("\n".join(f"line {i}" for i in range(500)))

    with refused(ModelError, "line 0", "line 11", "488 more lines") as caught:
        fit(estimator(model), data())
    assert "line 12" not in str(caught.value)


@pytest.mark.parametrize("model", [None, 3, "model"])
def test_models_that_are_not_callable(model: Any) -> None:
    with nothing_changes(), refused(ModelError, "model must be", "callable", type(model).__name__):
        estimator(model)
