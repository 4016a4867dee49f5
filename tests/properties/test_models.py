"""What holds for any model, family and floating-point type."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor

from amortvi.model.latents import sum_from
from tests.properties import PROPERTY
from tests.properties.programs import ROWS, Fitted, estimators

DRAWS = 3


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let the literals of a model that runs in plain Pyro have the type of its data."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def latent_sites(traced: Any) -> dict[str, dict[str, Any]]:
    """Return the latent sites of a trace, without auxiliary ones and those of plates."""
    return {
        name: site
        for name, site in traced.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site["infer"].get("is_auxiliary")
        and type(site["fn"]).__name__ != "_Subsample"
    }


def close(one: Tensor, two: Tensor, dtype: torch.dtype) -> None:
    tolerance = 1e-3 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(one.to(torch.float64), two.to(torch.float64), rtol=tolerance, atol=tolerance)


@PROPERTY
@given(estimators())
def test_guide_and_model_agree(fitted: Fitted) -> None:
    """They have the same latent sites, and the density of a trace of the guide is that of the posterior."""
    vi, x = fitted.vi, fitted.x
    with torch.no_grad(), torch.random.fork_rng(), default_dtype(fitted.dtype):
        torch.manual_seed(0)
        of_model = latent_sites(poutine.trace(fitted.program).get_trace(x))
        traced = poutine.trace(vi.guide).get_trace(x)
        traced.compute_log_prob()
        replayed = poutine.trace(poutine.replay(fitted.program, traced)).get_trace(x)
        replayed.compute_log_prob()
    of_guide = latent_sites(traced)
    assert of_guide.keys() == of_model.keys() == {site.name for site in (*fitted.program.local, *fitted.program.shared)}
    for name, site in of_model.items():
        value = of_guide[name]["value"]
        assert (value.shape, value.dtype) == (site["value"].shape, fitted.dtype)
        assert bool(site["fn"].support.check(value).all()), name

    latents = vi.guide.latents
    values = {site.name: site.layout.to_observations(of_guide[site.name]["value"]) for site in latents.sites}
    for site in fitted.program.local:
        assert values[site.name].shape == (ROWS, *fitted.program.nested(site).values(), *site.shape)
    local = [traced.nodes["_data_latent"], *(of_guide[site.name] for site in latents.sites)]
    log_q = sum(site["log_prob"].sum() for site in local)
    close(log_q, vi.posterior(x).log_prob(values).sum(), fitted.dtype)

    vector, log_det = latents.unconstrain(values)
    close(vector, traced.nodes["_data_latent"]["value"].reshape(vector.shape), fitted.dtype)
    if not fitted.program.shared:
        with torch.no_grad():
            log_joint = vi.generative.log_joint(vi.example, vector.unsqueeze(0)).sum()
        close(log_joint, replayed.log_prob_sum() + log_det.sum(), fitted.dtype)


@PROPERTY
@given(estimators(), st.integers(0, 99))
def test_packing_and_unpacking_are_inverse(fitted: Fitted, seed: int) -> None:
    latents = fitted.vi.guide.latents
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(DRAWS, ROWS, latents.dim, generator=generator).to(fitted.dtype)
    values, log_dets = latents.constrain(vector)
    again, log_det = latents.unconstrain(values)
    close(again, vector, fitted.dtype)
    expected = sum((sum_from(each, 2) for each in log_dets.values()), torch.zeros(DRAWS, ROWS))
    close(log_det, expected, fitted.dtype)
    prior = {name: value for name, value in fitted.vi.sample_prior(ROWS, seed=seed).items() if name in latents.names}
    packed, _ = latents.unconstrain(prior)
    for name, value in latents.constrain(packed)[0].items():
        close(value, prior[name], fitted.dtype)


@PROPERTY
@given(estimators(), st.integers(0, 99))
def test_exports_keep_every_coordinate(fitted: Fitted, seed: int) -> None:
    """Each exported number is that of the draw that the names and coordinates of its dimensions say."""
    vi = fitted.vi
    index = [f"row {i}" for i in range(ROWS)]
    x = pd.DataFrame(fitted.x.numpy(), index=index)
    draws = vi.posterior(x).sample(DRAWS, seed=seed)
    exported = vi.to_arviz(x, DRAWS, chains=1, prior_draws=0, posterior_predictive=False, seed=seed)["posterior"]
    assert set(exported.data_vars) == set(draws)
    for site in (*fitted.program.local, *fitted.program.shared):
        rows, nested = ({"data": ROWS}, fitted.program.nested(site)) if site in fitted.program.local else ({}, {})
        own = {f"{site.name}_dim_{i}": size for i, size in enumerate(site.shape)}
        sizes = {"draw": DRAWS, **rows, **nested, **own}
        found = exported[site.name]
        assert dict(found.sizes) == {"chain": 1, **sizes}
        assert found.dtype == str(fitted.dtype).removeprefix("torch.")
        for dim, size in sizes.items():
            assert list(found.coords[dim].values) == (index if dim == "data" else list(range(size)))
        np.testing.assert_array_equal(found.sel(chain=0).transpose(*sizes), draws[site.name])
