"""The content of an ArviZ export: groups, dimensions, attributes, draws and densities."""

import arviz
import numpy as np
import pytest
import torch
import xarray
from pyro import distributions as dist
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi._util import memory
from tests.arviz_versions import IS_OLD, groups
from tests.io.exports import DRAWS, EVIDENCE, EXACT, PLATES, PRIOR_DRAWS, X

LATENTS = {
    "vae": {"z": ("data", "z_dim_0")},
    "two sites": {"z": ("data", "z_dim_0"), "scale": ("data",), "precision": ("data",)},
    "nested plate": {"level": ("units",), "drift": ("units", "times", "drift_dim_0"), "mean": ("units", "times")},
}
"""The dimensions of the latent and deterministic sites of one draw."""


def test_groups_variables_and_dimensions(exported):
    def drawn(sites):
        return {name: ("chain", "draw", *dims) for name, dims in sites.items()}

    latents, plate = drawn(LATENTS[exported.name]), PLATES[exported.name]
    data = {"y": ("units", "times")} if exported.name == "nested plate" else {"x": ("data", "x_dim_0")}
    expected = {
        "posterior": latents,
        "posterior_predictive": drawn(data),
        "log_likelihood": drawn(dict.fromkeys(data, (plate,))),
        "sample_stats": drawn(dict.fromkeys(("log_q", "log_joint", "log_weight"), (plate,))),
        "prior": latents,
        "prior_predictive": drawn(data),
        "observed_data": data,
        **({"constant_data": {"t": ("units",)}} if exported.name == "nested plate" else {}),
    }
    found = groups(exported.data)
    assert {name: {key: v.dims for key, v in group.data_vars.items()} for name, group in found.items()} == expected
    assert list(found) == list(expected)
    assert (found["posterior"].sizes["draw"], found["prior"].sizes["draw"]) == (DRAWS, PRIOR_DRAWS)


def test_type_and_attributes(exported):
    assert isinstance(exported.data, arviz.InferenceData if IS_OLD else xarray.DataTree)
    expected = {
        "inference_library": "amortvi",
        "inference_library_version": avi.__version__,
        "posterior_family": "full",
        "objective": "ELBO()",
    }
    assert dict(exported.data.attrs) == expected
    assert all(dict(dataset.attrs) == expected for dataset in groups(exported.data).values())


def test_observed_and_constant_data_are_those_of_the_user(exported):
    found, x = groups(exported.data), exported.x
    if exported.name == "nested plate":
        np.testing.assert_array_equal(found["observed_data"]["y"], x["y"])
        np.testing.assert_array_equal(found["constant_data"]["t"], x["t"])
    else:
        np.testing.assert_array_equal(found["observed_data"]["x"], np.asarray(x, dtype=np.float32))


def test_deterministic_sites_are_computed_from_the_exported_draws(exported):
    for group in ("posterior", "prior"):
        found = groups(exported.data)[group]
        if exported.name == "two sites":
            np.testing.assert_allclose(found["precision"], found["scale"] ** -2, rtol=1e-4)
        if exported.name == "nested plate":
            covariate = groups(exported.data)["constant_data"]["t"]
            expected = found["level"] + found["drift"].sum("drift_dim_0") + covariate
            np.testing.assert_allclose(found["mean"], expected.transpose(*found["mean"].dims), rtol=1e-4, atol=1e-5)


def test_draws_follow_the_posterior(exact):
    posterior, count = exact.vi.posterior(X), 4000
    data = exact.vi.to_arviz(X, draws=count, posterior_predictive=False, prior_draws=0, seed=0)
    assert list(groups(data)) == ["posterior", "log_likelihood", "sample_stats", "observed_data"]
    draws = groups(data)["posterior"]["z"].values[0]
    mean, std = posterior.mean["z"].numpy(), posterior.std["z"].numpy()
    assert (np.abs(draws.mean(0) - mean) < 5 * std / np.sqrt(count)).all()
    assert (np.abs(draws.std(0) / std - 1) < 5 / np.sqrt(2 * count)).all()


def check_noise(found, latent, predicted):
    """Check mean and variance of the residuals of predictions, given their latents."""
    noise = found[predicted]["x"].values - found[latent]["z"].values @ EXACT.W.numpy().T - EXACT.bias.numpy()
    scale = float(EXACT.scale)
    assert abs(noise.mean()) < 5 * scale / np.sqrt(noise.size)
    assert abs((noise**2).mean() / scale**2 - 1) < 5 * np.sqrt(2 / noise.size)


def test_predictions_follow_the_draws(exact):
    for latent, predicted in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        check_noise(groups(exact.data), latent, predicted)


@pytest.mark.parametrize("numbers", [64, 1000])
def test_chunks_of_any_size(exact, numbers, monkeypatch):
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", numbers)
    found = groups(exact.vi.to_arviz(X, draws=20, prior_draws=7, seed=0))
    np.testing.assert_allclose(found["sample_stats"]["log_weight"][0], np.broadcast_to(EVIDENCE, (20, 30)), atol=1e-6)
    check_noise(found, "posterior", "posterior_predictive")
    np.testing.assert_array_equal(found["observed_data"]["x"], X)
    assert found["prior"]["z"].shape == (1, 7, 30, 3)


def test_a_seed_reproduces_the_export(exported):
    state = torch.get_rng_state()
    again = groups(exported.vi.to_arviz(exported.x, draws=DRAWS, prior_draws=PRIOR_DRAWS, seed=0))
    assert torch.equal(torch.get_rng_state(), state)
    for group, dataset in groups(exported.data).items():
        xarray.testing.assert_identical(dataset, again[group])


def test_observations_from_a_loader(exact):
    loader = DataLoader(TensorDataset(X), batch_size=8, drop_last=True)
    found = groups(exact.vi.to_arviz(loader, draws=4, prior_draws=2, seed=0))
    assert found["posterior"].sizes["data"] == 24
    np.testing.assert_array_equal(found["observed_data"]["x"], X[:24])
    np.testing.assert_allclose(found["sample_stats"]["log_weight"][0, 0], EVIDENCE[:24], atol=1e-6)


def test_densities_of_the_exact_posterior(exact):
    found = groups(exact.data)
    z = torch.tensor(found["posterior"]["z"].values[0])
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    likelihood = dist.Normal(z @ EXACT.W.mT + EXACT.bias, EXACT.scale).log_prob(X).sum(-1)
    np.testing.assert_allclose(found["log_likelihood"]["x"][0], likelihood)
    stats = found["sample_stats"]
    np.testing.assert_allclose(stats["log_q"][0], EXACT.posterior(X).log_prob(z), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stats["log_joint"][0], prior + likelihood)
    # By Bayes' theorem, the joint density over the exact posterior is the evidence for every draw.
    np.testing.assert_allclose(stats["log_weight"][0], np.broadcast_to(EVIDENCE, (50, 30)), atol=1e-6)


def test_densities_of_transformed_and_nested_sites(exported):
    found, x = groups(exported.data), exported.x
    posterior = exported.vi.posterior(x)
    values = {site.name: torch.tensor(found["posterior"][site.name].values[0]) for site in posterior.latents.sites}
    np.testing.assert_allclose(found["sample_stats"]["log_q"][0], posterior.log_prob(values), rtol=1e-3, atol=2e-3)
    if exported.name == "two sites":
        likelihood = dist.Normal(values["z"], values["scale"].unsqueeze(-1)).log_prob(x).sum(-1)
        np.testing.assert_allclose(found["log_likelihood"]["x"][0], likelihood, rtol=1e-4, atol=1e-4)
    if exported.name == "nested plate":
        mean = values["level"].unsqueeze(-1) + values["drift"].sum(-1) + x["t"].unsqueeze(-1)
        likelihood = dist.Normal(mean, 0.5).log_prob(x["y"]).sum(-1)
        np.testing.assert_allclose(found["log_likelihood"]["y"][0], likelihood, rtol=1e-4, atol=1e-4)
