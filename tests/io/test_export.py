"""The content of an ArviZ export: groups, dimensions, attributes, draws and densities."""

import arviz
import numpy as np
import pytest
import torch
import xarray
from pyro import distributions as dist
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi._util import chunks
from amortvi.errors import NotFittedError, OptionError
from tests.arviz_versions import IS_OLD, groups
from tests.io.exports import DRAWS, EVIDENCE, EXACT, PLATES, PRIOR_DRAWS, X, within_error

# ------------------------------------------------------------------------------ groups, dimensions, attributes

_VAE = {
    "posterior": {"z": ("chain", "draw", "data", "z_dim_0")},
    "posterior_predictive": {"x": ("chain", "draw", "data", "x_dim_0")},
    "log_likelihood": {"x": ("chain", "draw", "data")},
    "prior": {"z": ("chain", "draw", "data", "z_dim_0")},
    "prior_predictive": {"x": ("chain", "draw", "data", "x_dim_0")},
    "observed_data": {"x": ("data", "x_dim_0")},
}
_SCALES = {"scale": ("chain", "draw", "data"), "precision": ("chain", "draw", "data")}
_NESTED = {
    "level": ("chain", "draw", "units"),
    "drift": ("chain", "draw", "units", "times", "drift_dim_0"),
    "mean": ("chain", "draw", "units", "times"),
}
DIMENSIONS = {
    "vae": _VAE,
    "two sites": {**_VAE, "posterior": _VAE["posterior"] | _SCALES, "prior": _VAE["prior"] | _SCALES},
    "nested plate": {
        "posterior": _NESTED,
        "posterior_predictive": {"y": ("chain", "draw", "units", "times")},
        "log_likelihood": {"y": ("chain", "draw", "units")},
        "prior": _NESTED,
        "prior_predictive": {"y": ("chain", "draw", "units", "times")},
        "observed_data": {"y": ("units", "times")},
        "constant_data": {"t": ("units",)},
    },
}


def test_groups_variables_and_dimensions(exported):
    found = {
        group: {variable: array.dims for variable, array in dataset.data_vars.items()}
        for group, dataset in groups(exported.data).items()
    }
    plate = PLATES[exported.name]
    stats = {stat: ("chain", "draw", plate) for stat in ("log_q", "log_joint", "log_weight")}
    assert found == {**DIMENSIONS[exported.name], "sample_stats": stats}
    assert next(iter(found)) == "posterior"
    assert groups(exported.data)["posterior"].sizes["draw"] == DRAWS
    assert groups(exported.data)["prior"].sizes["draw"] == PRIOR_DRAWS


def test_type_depends_on_the_version_of_arviz(exported):
    assert isinstance(exported.data, arviz.InferenceData if IS_OLD else xarray.DataTree)


def test_attributes(exported):
    expected = {
        "inference_library": "amortvi",
        "inference_library_version": avi.__version__,
        "posterior_family": "full",
        "objective": "ELBO()",
    }
    assert dict(exported.data.attrs) == expected
    assert all(dict(dataset.attrs) == expected for dataset in groups(exported.data).values())


def test_densities_are_in_double_precision(exported):
    """In single precision, importance sampling in ArviZ returns NaN or wrong numbers for bad fits."""
    found = groups(exported.data)
    for group in ("log_likelihood", "sample_stats"):
        assert {array.dtype for array in found[group].data_vars.values()} == {np.dtype("float64")}
    assert {array.dtype for array in found["posterior"].data_vars.values()} == {np.dtype("float32")}


def test_groups_can_be_omitted(exact):
    found = groups(exact.vi.to_arviz(X, draws=3, posterior_predictive=False, prior_draws=0, seed=0))
    assert list(found) == ["posterior", "log_likelihood", "sample_stats", "observed_data"]


# ------------------------------------------------------------------------------ data and draws


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
    draws = groups(data)["posterior"]["z"].values[0]
    mean, std = posterior.mean["z"].numpy(), posterior.std["z"].numpy()
    assert (np.abs(draws.mean(0) - mean) < 5 * std / np.sqrt(count)).all()
    assert (np.abs(draws.std(0) / std - 1) < 5 / np.sqrt(2 * count)).all()


def test_predictions_follow_the_draws(exact):
    found, scale = groups(exact.data), float(EXACT.scale)
    for latent, predicted in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        noise = found[predicted]["x"].values - found[latent]["z"].values @ EXACT.W.numpy().T - EXACT.bias.numpy()
        assert within_error(noise.mean(), 0.0, scale, noise.size)
        assert within_error((noise**2).mean(), scale**2, np.sqrt(2) * scale**2, noise.size)


@pytest.mark.parametrize("numbers", [64, 1000])
def test_chunks_of_any_size(exact, numbers, monkeypatch):
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", numbers)
    found = groups(exact.vi.to_arviz(X, draws=20, prior_draws=7, seed=0))
    np.testing.assert_allclose(found["sample_stats"]["log_weight"][0], np.broadcast_to(EVIDENCE, (20, 30)), atol=1e-6)
    noise = found["posterior_predictive"]["x"].values - found["posterior"]["z"].values @ EXACT.W.numpy().T
    squared = (noise - EXACT.bias.numpy()) ** 2
    scale = float(EXACT.scale)
    assert within_error(squared.mean(), scale**2, np.sqrt(2) * scale**2, squared.size)
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


# ------------------------------------------------------------------------------ densities


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
    stats = found["sample_stats"]
    np.testing.assert_allclose(stats["log_q"][0], posterior.log_prob(values), rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(stats["log_weight"], stats["log_joint"] - stats["log_q"], atol=1e-6)
    if exported.name == "two sites":
        prior = dist.Normal(0.0, 1.0).log_prob(values["z"]).sum(-1) + dist.LogNormal(0.0, 0.5).log_prob(values["scale"])
        likelihood = dist.Normal(values["z"], values["scale"].unsqueeze(-1)).log_prob(x).sum(-1)
        np.testing.assert_allclose(found["log_likelihood"]["x"][0], likelihood, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(stats["log_joint"][0], prior + likelihood, rtol=1e-4, atol=1e-4)
    if exported.name == "nested plate":
        mean = values["level"].unsqueeze(-1) + values["drift"].sum(-1) + x["t"].unsqueeze(-1)
        likelihood = dist.Normal(mean, 0.5).log_prob(x["y"]).sum(-1)
        np.testing.assert_allclose(found["log_likelihood"]["y"][0], likelihood, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------ options


def test_options_are_checked(exact):
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        exact.vi.to_arviz(X, draws=0)
    with pytest.raises(OptionError, match="prior_draws must be a nonnegative integer"):
        exact.vi.to_arviz(X, prior_draws=-1)
    with pytest.raises(NotFittedError, match="fit or setup"):
        avi.AmortizedVI(EXACT, avi.encoders.MLP(5, [])).to_arviz(X)
