"""Models that amortized inference does not support: the site or plate at fault, and what to write instead."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import amortvi as avi
from amortvi.errors import ModelError, OptionError
from tests.bad_input.helpers import FEATURES, LATENTS, data, decoded, estimator, fit, network, observe, prior, refused

Model = Callable[[Tensor], None]


def in_plate(body: Callable[[Tensor], object]) -> Model:
    """Return a model with the statements of ``body`` in the data plate."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            body(x)

    return model


def with_prior(make: Callable[[Tensor], Any]) -> Model:
    """Return a model whose latent has the prior that ``make`` returns for the data."""
    return in_plate(lambda x: observe(pyro.sample("z", make(x)), x))


def with_plate(make: Callable[[Tensor], Any]) -> Model:
    """Return a model with the data plate that ``make`` returns."""

    def model(x: Tensor) -> None:
        with make(x) as rows:
            observe(pyro.sample("z", prior()), x if len(rows) == len(x) else x[rows])

    return model


def two_candidates(x: Tensor) -> None:
    with pyro.plate("a", x.shape[0], dim=-1):
        z = pyro.sample("z", prior())
    with pyro.plate("b", x.shape[0], dim=-1):
        observe(z + pyro.sample("w", prior()), x)


def loop(x: Tensor) -> None:
    for i in pyro.plate("data", x.shape[0]):
        observe(pyro.sample(f"z{i}", prior()), x[i], f"x{i}")


def nested_subsample(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", 9, subsample_size=3, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def no_latent_in_plate(x: Tensor) -> None:
    z = pyro.sample("z", prior())
    with pyro.plate("data", x.shape[0]):
        observe(z.expand(x.shape[0], LATENTS), x)


def with_global(make: Callable[[Tensor], Any], use: Callable[[Any], Any] = torch.zeros_like) -> Model:
    """Return a model with a latent outside the data plate, whose prior ``make`` returns for the data."""

    def model(x: Tensor) -> None:
        w = make(x)
        with pyro.plate("data", x.shape[0]):
            observe(pyro.sample("z", prior()) + use(w).sum(), x)

    return model


def bound_from_a_global(x: Tensor) -> None:
    width = pyro.sample("width", dist.HalfNormal(1.0))
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", dist.Uniform(-width - 1, width + 1).expand([LATENTS]).to_event(1)), x)


def subsampled_topics(x: Tensor) -> Tensor:
    with pyro.plate("topics", 9, subsample_size=3):
        return pyro.sample("w", dist.Normal(0.0, 1.0))


def latent_under_mask(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        # True everywhere on the example, but perhaps not on the next batch.
        with poutine.mask(mask=x[:, 0] > -1e6):
            z = pyro.sample("z", prior())
        observe(z, x)


def learned_bound(x: Tensor) -> Any:
    return dist.Uniform(torch.zeros(LATENTS), pyro.param("high", torch.tensor(2.0))).to_event(1)


def observed_in_another_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
    with pyro.plate("rows", x.shape[0]):
        observe(z, x)


def observed_outside(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
    pyro.sample("x", dist.Normal(decoded(z), 0.5).to_event(2), obs=x)


def raises(x: Tensor) -> None:
    raise KeyError("the user's own")


ZEROS = torch.zeros(LATENTS)
BOUND, MASKED = ("latent site 'z'", "upper_bound", "fixed support"), ("latent site 'z' is masked", "observed sites")
SUBSAMPLED = ("plate 'data'", "subsample", "x.shape[0]", "subsample=x")
MODELS: dict[str, tuple[Model, tuple[str, ...]]] = {
    "no plate": (lambda x: observe(pyro.sample("z", prior()), x), ("no plate", 'with pyro.plate("data", x.shape[0])')),
    "two plates": (two_candidates, ("several plates", "40", "['a', 'b']", "plate=...")),
    "constant size": (
        with_plate(lambda x: pyro.plate("data", 50)),
        ("no plate", "40 observations", "'data' of size 50", "x.shape[0]"),
    ),
    "subsample": (with_plate(lambda x: pyro.plate("data", 1000, subsample_size=len(x))), SUBSAMPLED),
    "subsample as index": (with_plate(lambda x: pyro.plate("data", 1000, subsample_size=16)), SUBSAMPLED),
    "loop": (loop, ("plate 'data' is a Python loop", "with pyro.plate('data', x.shape[0])")),
    "nested subsample": (nested_subsample, ("latent site 'z'", "plate 'parts'", "3 of 9", "complete")),
    "no latent": (in_plate(lambda x: pyro.sample("x", prior(FEATURES), obs=x)), ("no latent site", "obs=")),
    "no latent in the plate": (no_latent_in_plate, ("plate 'data' contains no latent", "['z']", "inside the plate")),
    "a discrete global latent": (
        with_global(lambda x: pyro.sample("w", dist.Poisson(2.0))),
        ("latent site 'w' is discrete (Poisson)",),
    ),
    "a global latent of the size of the batch": (
        with_global(lambda x: pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))),
        ("latent site 'w' is outside plate 'data'", "(40,)", "(39,)", "inside 'with pyro.plate('data', ...):'"),
    ),
    "a global prior from data": (
        with_global(lambda x: pyro.sample("w", dist.Normal(x.mean(), 1.0))),
        ("site 'w' is outside plate 'data'", "depends on the rows"),
    ),
    "a global bound from a global latent": (
        with_global(lambda x: pyro.sample("w", dist.Uniform(0.0, pyro.sample("width", dist.HalfNormal(1.0)) + 1))),
        ("support of latent site 'w'", "differs from run to run", "fixed support"),
    ),
    "a local bound from a global latent": (
        bound_from_a_global,
        ("support of latent site 'z'", "differs from run to run", "fixed support"),
    ),
    "a lower global bound from a global latent": (
        with_global(lambda x: pyro.sample("w", dist.Uniform(-pyro.sample("width", dist.HalfNormal(1.0)), 9.0))),
        ("support of latent site 'w'", "differs from run to run", "fixed support"),
    ),
    "a learned global bound": (
        with_global(lambda x: pyro.sample("w", dist.Uniform(0.0, pyro.param("high", torch.tensor(2.0))))),
        ("latent site 'w'", "upper_bound", "fixed support"),
    ),
    "a global latent of a part": (
        with_global(subsampled_topics),
        ("latent site 'w'", "'topics'", "3 of 9", "complete"),
    ),
    "discrete latent": (
        with_prior(lambda x: dist.Bernoulli(torch.full((LATENTS,), 0.3)).to_event(1)),
        ("latent site 'z' is discrete (Bernoulli)", "MixtureSameFamily", "logsumexp", "obs="),
    ),
    "latent under a mask": (latent_under_mask, MASKED),
    "masked prior": (with_prior(lambda x: prior().mask(x[:, 0] > 0)), MASKED),
    "learned bound": (with_prior(learned_bound), BOUND),
    "bound from data": (with_prior(lambda x: dist.Uniform(ZEROS, x[:, :1].abs() + 1).to_event(1)), BOUND),
    "point": (with_prior(lambda x: dist.Delta(ZEROS).to_event(1)), ("'z' is a point (Delta)", "pyro.deterministic")),
    "angle": (with_prior(lambda x: dist.VonMises(ZEROS, 1).to_event(1)), ("'z' is an angle (VonMises)", "torch.atan2")),
    "sphere": (
        with_prior(lambda x: dist.ProjectedNormal(ZEROS + 1)),
        ("support", "latent site 'z'", "another support"),
    ),
    "two sites of one name": (
        in_plate(lambda x: observe(pyro.sample("z", prior()) + pyro.sample("z", prior()), x)),
        ("several sites named 'z'",),
    ),
    "observed in another plate": (observed_in_another_plate, ("observed site 'x'", "plate 'rows'", "plate 'data'")),
    "observed outside": (observed_outside, ("observed site 'x'", "no plate", "plate 'data'")),
    "unobserved": (in_plate(lambda x: pyro.sample("z", prior())), ("nothing is observed inside plate 'data'", "obs=x")),
    "obs_mask": (
        in_plate(lambda x: observe(pyro.sample("z", prior()), x, obs_mask=x[:, 0] > 0)),
        ("site 'x' has obs_mask=", "with pyro.poutine.mask(mask=mask)"),
    ),
    "raises": (raises, ("failed on x of shape (40, 3) and torch.float32", "KeyError", "the user's own")),
    "wrong shape": (with_prior(lambda x: prior(FEATURES)), ("the model failed on x of shape (40, 3)", "site 'x'")),
}


@pytest.mark.filterwarnings("ignore:.*has no names in common:UserWarning")
@pytest.mark.parametrize("case", MODELS)
def test_unsupported_models(case: str) -> None:
    model, facts = MODELS[case]
    vi = estimator(model)
    with refused(ModelError, *facts):
        fit(vi, data())
    with refused(ModelError, *facts):
        vi.setup(data(), seed=0)
    with refused(ModelError, *facts), torch.random.fork_rng():
        avi.AmortizedGuide(poutine.block(model, hide_types=["param"]), network()).setup(data())


def test_the_plate_can_be_named() -> None:
    with refused(ModelError, "observed site 'x' is in plate 'b'", "plate 'a'"):
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
    outer, inner = partial(model, inner=False), partial(model, inner=True)
    assert estimator(outer).setup(data(FEATURES)).generative.structure.plate == "data"
    with refused(ModelError, "several plates", "['data', 'parts']", "plate=..."):
        estimator(inner).setup(data(FEATURES), seed=0)
    assert estimator(inner, plate="data").setup(data(FEATURES)).generative.structure.plate == "data"


@pytest.mark.parametrize(
    ("global_guide", "error", "facts"),
    [
        ("AutoNormal", OptionError, ("global_guide must be a class", "got str")),
        (
            lambda model: pyro.poutine.block(model),
            OptionError,
            ("global_guide must return a guide", "autoguide", "got "),
        ),
        (
            lambda model: AutoNormal(pyro.poutine.block(model, hide=["w"])),
            OptionError,
            ("does not sample the global latents ['w']",),
        ),
    ],
    ids=["not callable", "not a guide", "a site is missing"],
)
def test_global_guides(global_guide: Any, error: type[Exception], facts: tuple[str, ...]) -> None:
    def shared(x: Tensor) -> Tensor:
        return pyro.sample("w", dist.Normal(0.0, 1.0)) + pyro.sample("v", dist.Normal(0.0, 1.0))

    with refused(error, *facts):
        avi.AmortizedVI(with_global(shared), network(), global_guide=global_guide).setup(data(), seed=0)


def test_a_global_guide_without_global_latents() -> None:
    vi = avi.AmortizedVI(in_plate(lambda x: observe(pyro.sample("z", prior()), x)), network(), global_guide=AutoNormal)
    with refused(ModelError, "AutoNormal", "has no effect", "plate 'data'"):
        fit(vi, data())


def test_long_errors_are_cut() -> None:
    def model(x: Tensor) -> None:
        raise ValueError("\n".join(f"line {i}" for i in range(500)))

    with refused(ModelError, "line 0", "line 11", "488 more lines") as caught:
        fit(estimator(model), data())
    assert "line 12" not in str(caught.value)


@pytest.mark.parametrize("model", [None, 3, "model"])
def test_models_that_are_not_callable(model: Any) -> None:
    with refused(ModelError, "model must be", "callable", type(model).__name__):
        estimator(model)
