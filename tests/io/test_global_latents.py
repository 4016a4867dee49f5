"""Saved runs and exports of models with global latents."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal
from torch import Tensor

import amortvi as avi
from amortvi.errors import CheckpointError
from tests import global_latents as exact
from tests.global_latents import N, X, set_by_hand


@pytest.mark.parametrize("global_guide", [None, AutoMultivariateNormal, AutoDelta])
def test_a_loaded_run_is_the_same_and_continues(tmp_path: Path, global_guide: Any) -> None:
    vi = exact.fitted(global_guide=global_guide, epochs=3)
    vi.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(tmp_path / "run", exact.model, exact.Column(), global_guide=global_guide)
    for each in (vi, loaded):
        each.fit(X, epochs=2, lr=0.02, seed=5, progress=False)
    one, two = (each.guide.state_dict() for each in (vi, loaded))
    assert any("global_posterior" in name for name in one)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_another_guide_is_refused(tmp_path: Path) -> None:
    exact.fitted(epochs=1, global_guide=AutoMultivariateNormal).save(tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"argument global_guide: AutoMultivariateNormal in the run, AutoNormal here"
    ):
        avi.AmortizedVI.load(tmp_path / "run", exact.model, exact.Column())

    def renamed(x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(level, 1.0)), 1.0), obs=x)

    with pytest.raises(CheckpointError, match=r"global latent mu: \[\] in the run, missing here"):
        avi.AmortizedVI.load(tmp_path / "run", renamed, exact.Column(), global_guide=AutoMultivariateNormal)


def test_copies_share_nothing_with_the_model_and_do_not_change() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor) -> None:
            mu = pyro.sample("mu", dist.Normal(self.level, 3.0))
            with pyro.plate("data", x.shape[0]):
                pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(mu, 1.0)), 1.0), obs=x)

    vi = exact.estimator(Model()).to(dtype=torch.float64).setup(X, seed=0)
    assert not any(name.endswith("level") for name, _ in vi.guide.named_parameters())
    posterior = vi.posterior(X)
    before = posterior.median["mu"]
    vi.fit(X, epochs=3, lr=0.1, seed=0, progress=False)
    assert torch.equal(posterior.median["mu"], before)
    assert not torch.equal(vi.posterior(X).median["mu"], before)
    assert vi.to(dtype=torch.float32).posterior(X.float()).mean["mu"].dtype == torch.float32


def test_an_export_has_the_dimensions_of_each_site() -> None:
    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("topics", 2):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(level.sum() + weights[0], 1.0))
            pyro.deterministic("shifted", z + level[0])
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    vi = exact.estimator(model, plate="data").to(dtype=torch.float64).setup(X, seed=0)
    found = vi.to_arviz(X, 6, prior_draws=4, seed=0)
    expected = {"weights": ("chain", "draw", "weights_dim_0"), "level": ("chain", "draw", "level_dim_0")}
    for group, draws in (("posterior", (4, 6)), ("prior", (1, 4))):
        variables = found[group].data_vars
        assert {name: variables[name].dims for name in expected} == expected
        assert variables["z"].dims == ("chain", "draw", "data")
        assert variables["weights"].shape == (*draws, 3)
        assert variables["level"].shape == (*draws, 2)
        np.testing.assert_allclose(variables["weights"].sum("weights_dim_0"), 1.0)
    # A deterministic site is that of the global latents of its draw.
    posterior = found["posterior"].data_vars
    shift = (posterior["shifted"] - posterior["z"]).values
    np.testing.assert_allclose(shift, np.broadcast_to(posterior["level"].values[..., :1], shift.shape))


def test_the_log_likelihood_and_the_weights_are_given_each_draw() -> None:
    found = set_by_hand(1.0, 0.8, 0.7, 0.9).to_arviz(X, 50, prior_draws=0, seed=0)
    z, mu = (torch.tensor(found["posterior"][name].values[0]) for name in ("z", "mu"))
    likelihood = dist.Normal(z, 1.0).log_prob(X)
    prior = dist.Normal(mu.unsqueeze(-1), 1.0).log_prob(z)
    stats = found["sample_stats"]
    np.testing.assert_allclose(found["log_likelihood"]["x"].values[0], likelihood)
    np.testing.assert_allclose(stats["log_joint"].values[0], likelihood + prior)
    log_q = dist.Normal(0.7, 0.9).log_prob(z)
    np.testing.assert_allclose(stats["log_weight"].values[0], likelihood + prior - log_q, rtol=1e-4, atol=1e-5)
    assert float(mu.std()) == pytest.approx(0.8, rel=0.5)
    assert len(set(mu.tolist())) == 50
    assert z.shape == (50, N)
