"""The bridge to ArviZ, on ArviZ 0.x and 1.x alike."""

import logging
import math

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import xarray
from pyro import distributions as dist
from pyro.contrib.autoname import scope
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import NotFittedError, OptionError
from tests.arviz_versions import IS_OLD, PLOTS, compare, groups, loo, plot_predictive
from tests.exact import linear_gaussian, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(30, seed=1)
EVIDENCE = MODEL.log_evidence(X).numpy()


def fitted(model, encoder, x, family="full", epochs=10):
    return avi.AmortizedVI(model, encoder, family).fit(x, epochs=epochs, lr=0.01, progress=False, seed=0)


def two_sites(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        pyro.deterministic("precision", scale**-2)
        pyro.sample("x", dist.Normal(z, scale.unsqueeze(-1)).to_event(1), obs=x)


def nested(y, t):
    with pyro.plate("units", y.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("times", y.shape[1], dim=-1):
            drift = pyro.sample("drift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = pyro.deterministic("mean", level + drift.sum(-1) + t.unsqueeze(-1), event_dim=0)
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def _vae():
    data = avi.datasets.digits()
    x = pd.DataFrame(data.x_train[:40].numpy(), index=[f"digit {i}" for i in range(40)])
    return fitted(avi.models.VAE(torch.nn.Linear(3, 64), 3), avi.encoders.MLP(64, [16]), x), x


def _two():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    return fitted(two_sites, avi.encoders.MLP(2, [8]), x), x


def _nested():
    generator = torch.Generator().manual_seed(0)
    data = {"y": torch.randn(25, 4, generator=generator), "t": torch.randn(25, generator=generator)}
    return fitted(nested, avi.encoders.MLP(5, [8]), data), data


MODELS = {"vae": _vae, "two sites": _two, "nested plate": _nested}
PLATES = {"vae": "data", "two sites": "data", "nested plate": "units"}


@pytest.fixture(scope="module", params=MODELS)
def exported(request):
    """The name of a model, its estimator, its data and what `to_arviz` makes of them."""
    vi, x = MODELS[request.param]()
    return request.param, vi, x, vi.to_arviz(x, draws=60, prior_draws=20, seed=0)


@pytest.fixture(scope="module")
def exact():
    """The data of a model whose posterior is exact."""
    vi = solved(MODEL)
    return vi, vi.to_arviz(X, draws=50, prior_draws=5, seed=0)


# ------------------------------------------------------------------------------ groups, dimensions, names


DIMENSIONS = {
    "vae": {
        "posterior": {"z": ("chain", "draw", "data", "z_dim_0")},
        "posterior_predictive": {"x": ("chain", "draw", "data", "x_dim_0")},
        "log_likelihood": {"x": ("chain", "draw", "data")},
        "prior": {"z": ("chain", "draw", "data", "z_dim_0")},
        "prior_predictive": {"x": ("chain", "draw", "data", "x_dim_0")},
        "observed_data": {"x": ("data", "x_dim_0")},
    },
    "two sites": {
        "posterior": {
            "z": ("chain", "draw", "data", "z_dim_0"),
            "scale": ("chain", "draw", "data"),
            "precision": ("chain", "draw", "data"),
        },
        "posterior_predictive": {"x": ("chain", "draw", "data", "x_dim_0")},
        "log_likelihood": {"x": ("chain", "draw", "data")},
        "prior": {
            "z": ("chain", "draw", "data", "z_dim_0"),
            "scale": ("chain", "draw", "data"),
            "precision": ("chain", "draw", "data"),
        },
        "prior_predictive": {"x": ("chain", "draw", "data", "x_dim_0")},
        "observed_data": {"x": ("data", "x_dim_0")},
    },
    "nested plate": {
        "posterior": {
            "level": ("chain", "draw", "units"),
            "drift": ("chain", "draw", "units", "times", "drift_dim_0"),
            "mean": ("chain", "draw", "units", "times"),
        },
        "posterior_predictive": {"y": ("chain", "draw", "units", "times")},
        "log_likelihood": {"y": ("chain", "draw", "units")},
        "prior": {
            "level": ("chain", "draw", "units"),
            "drift": ("chain", "draw", "units", "times", "drift_dim_0"),
            "mean": ("chain", "draw", "units", "times"),
        },
        "prior_predictive": {"y": ("chain", "draw", "units", "times")},
        "observed_data": {"y": ("units", "times")},
        "constant_data": {"t": ("units",)},
    },
}


def test_groups_variables_and_dimensions(exported):
    name, _, _, data = exported
    found = {
        group: {variable: array.dims for variable, array in dataset.data_vars.items()}
        for group, dataset in groups(data).items()
    }
    plate = PLATES[name]
    stats = {stat: ("chain", "draw", plate) for stat in ("log_q", "log_joint", "log_weight")}
    assert found == {**DIMENSIONS[name], "sample_stats": stats}
    assert next(iter(found)) == "posterior"
    assert groups(data)["posterior"].sizes["draw"] == 60
    assert groups(data)["prior"].sizes["draw"] == 20


def test_the_type_is_that_of_the_version(exported):
    assert isinstance(exported[3], arviz.InferenceData if IS_OLD else xarray.DataTree)


def test_attributes(exported):
    _, _vi, _, data = exported
    expected = {
        "inference_library": "amortvi",
        "inference_library_version": avi.__version__,
        "posterior_family": "full",
        "objective": "ELBO(particles=1, kl='auto')",
    }
    assert dict(data.attrs) == expected
    assert all(dict(dataset.attrs) == expected for dataset in groups(data).values())


def test_observed_and_constant_data_are_the_users(exported):
    name, _, x, data = exported
    if name == "nested plate":
        np.testing.assert_array_equal(groups(data)["observed_data"]["y"], x["y"])
        np.testing.assert_array_equal(groups(data)["constant_data"]["t"], x["t"])
    else:
        np.testing.assert_array_equal(groups(data)["observed_data"]["x"], np.asarray(x, dtype=np.float32))


def test_a_deterministic_site_is_computed_from_the_draws_beside_it(exported):
    name, _, _x, data = exported
    for group in ("posterior", "prior"):
        found = groups(data)[group]
        if name == "two sites":
            np.testing.assert_allclose(found["precision"], found["scale"] ** -2, rtol=1e-4)
        if name == "nested plate":
            expected = found["level"] + found["drift"].sum("drift_dim_0") + groups(data)["constant_data"]["t"]
            np.testing.assert_allclose(found["mean"], expected.transpose(*found["mean"].dims), rtol=1e-4, atol=1e-5)


def test_groups_that_are_not_wanted(exact):
    vi, _ = exact
    found = groups(vi.to_arviz(X, draws=3, posterior_predictive=False, prior_draws=0, seed=0))
    assert list(found) == ["posterior", "log_likelihood", "sample_stats", "observed_data"]


def test_draws_are_those_of_the_posterior(exact):
    vi, _data = exact
    posterior = vi.posterior(X)
    draws = groups(vi.to_arviz(X, draws=4000, posterior_predictive=False, prior_draws=0, seed=0))["posterior"]["z"]
    error = (draws.mean(("chain", "draw")) - posterior.mean["z"].numpy()) / posterior.std["z"].numpy()
    assert np.abs(error * math.sqrt(4000)).max() < 5
    np.testing.assert_allclose(draws.std(("chain", "draw")), posterior.std["z"], rtol=0.08)


# ------------------------------------------------------------------------------ densities


def test_densities_against_the_exact_model(exact):
    _, data = exact
    found = groups(data)
    z = torch.tensor(found["posterior"]["z"].values[0])
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    likelihood = dist.Normal(z @ MODEL.W.mT + MODEL.bias, MODEL.scale).log_prob(X).sum(-1)
    np.testing.assert_allclose(found["log_likelihood"]["x"][0], likelihood)
    stats = found["sample_stats"]
    np.testing.assert_allclose(stats["log_q"][0], MODEL.posterior(X).log_prob(z), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stats["log_joint"][0], prior + likelihood)
    # Bayes: the joint over the exact posterior is the evidence, whatever the draw.
    np.testing.assert_allclose(stats["log_weight"][0], np.broadcast_to(EVIDENCE, (50, 30)), atol=1e-6)


def test_densities_of_transformed_and_nested_sites(exported):
    name, vi, x, data = exported
    found = groups(data)
    sites = vi.posterior(x).latents.sites
    values = {site.name: torch.tensor(found["posterior"][site.name].values[0]) for site in sites}
    log_q = vi.posterior(x).log_prob(values)
    np.testing.assert_allclose(found["sample_stats"]["log_q"][0], log_q, rtol=1e-3, atol=2e-3)
    if name == "two sites":
        prior = dist.Normal(0.0, 1.0).log_prob(values["z"]).sum(-1) + dist.LogNormal(0.0, 0.5).log_prob(values["scale"])
        likelihood = dist.Normal(values["z"], values["scale"].unsqueeze(-1)).log_prob(x).sum(-1)
        np.testing.assert_allclose(found["log_likelihood"]["x"][0], likelihood, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["sample_stats"]["log_joint"][0], prior + likelihood, rtol=1e-4, atol=1e-4)
    if name == "nested plate":
        mean = values["level"].unsqueeze(-1) + values["drift"].sum(-1) + x["t"].unsqueeze(-1)
        likelihood = dist.Normal(mean, 0.5).log_prob(x["y"]).sum(-1)
        np.testing.assert_allclose(found["log_likelihood"]["y"][0], likelihood, rtol=1e-4, atol=1e-4)
    weight = found["sample_stats"]["log_joint"] - found["sample_stats"]["log_q"]
    np.testing.assert_allclose(found["sample_stats"]["log_weight"], weight, atol=1e-6)


def test_predictions_follow_the_draws(exact):
    _, data = exact
    found = groups(data)
    for latent, predicted in (("posterior", "posterior_predictive"), ("prior", "prior_predictive")):
        noise = found[predicted]["x"].values - found[latent]["z"].values @ MODEL.W.numpy().T - MODEL.bias.numpy()
        assert noise.std() == pytest.approx(0.8, rel=0.1)
        assert abs(noise.mean()) < 5 * 0.8 / math.sqrt(noise.size)


@pytest.mark.parametrize("numbers", [64, 1000])
def test_pieces_of_any_size_belong_together(exact, numbers, monkeypatch):
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", numbers)
    found = groups(exact[0].to_arviz(X, draws=20, prior_draws=7, seed=0))
    np.testing.assert_allclose(found["sample_stats"]["log_weight"][0], np.broadcast_to(EVIDENCE, (20, 30)), atol=1e-6)
    noise = found["posterior_predictive"]["x"].values - found["posterior"]["z"].values @ MODEL.W.numpy().T
    assert (noise - MODEL.bias.numpy()).std() == pytest.approx(0.8, rel=0.1)
    np.testing.assert_array_equal(found["observed_data"]["x"], X)
    assert found["prior"]["z"].shape == (1, 7, 30, 3)


def test_a_seed_reproduces_it_and_leaves_the_random_state(exported):
    _, vi, x, data = exported
    state = torch.get_rng_state()
    again = groups(vi.to_arviz(x, draws=60, prior_draws=20, seed=0))
    assert torch.equal(torch.get_rng_state(), state)
    for group, dataset in groups(data).items():
        xarray.testing.assert_identical(dataset, again[group])


# ------------------------------------------------------------------------------ ArviZ's functions


def _two_observations(name, data):
    labels = groups(data)["posterior"][PLATES[name]].values
    return {PLATES[name]: list(labels[:2])}


def test_summary_ess_and_extract(exported, caplog):
    name, _, _, data = exported
    chosen = _two_observations(name, data)
    posterior = groups(data)["posterior"].sel(chosen)
    with caplog.at_level(logging.WARNING):
        table = arviz.summary(data, coords=chosen, kind="stats")
    assert not caplog.records  # one chain: with kind="all" ArviZ 0.x logs that it cannot have an r_hat
    assert len(table) == sum(array[0, 0].size for array in posterior.data_vars.values())
    with caplog.at_level(logging.CRITICAL, logger="arviz"):
        assert len(arviz.summary(data, coords=chosen)) == len(table)
    # Independent draws: as many effective ones as there are, within the error of the estimate.
    ess = arviz.ess(data)
    ess = ess if IS_OLD else ess.to_dataset() if isinstance(ess, xarray.DataTree) else ess
    mean_ess = np.mean([array.values.mean() for array in ess.data_vars.values()])
    assert 45 < mean_ess < 90
    found = arviz.extract(data, num_samples=7)
    assert found.sizes["sample"] == 7


def test_loo_is_pointwise(exported):
    name, _, _x, data = exported
    found = loo(data)
    assert found.pointwise.dims == (PLATES[name],)
    assert found.pointwise.shape == found.pareto_k.shape == (groups(data)["posterior"].sizes[PLATES[name]],)
    assert float(found.pointwise.sum()) == pytest.approx(found.total)
    assert np.isfinite(found.total)


def test_loo_of_exact_draws_estimates_the_evidence():
    """Only an observation's own latents learn from it: without it they are left to the prior, which gives p(x)."""
    model = avi.models.LinearGaussian(torch.ones(3, 1, dtype=torch.float64), scale=5.0)
    x = model.simulate(40, seed=0)
    data = solved(model).to_arviz(x, draws=2000, posterior_predictive=False, prior_draws=0, seed=0)
    found = loo(data)
    assert found.pareto_k.max() < 0.7
    np.testing.assert_allclose(found.pointwise, model.log_evidence(x), atol=0.1)
    log_weight = groups(data)["sample_stats"]["log_weight"]
    np.testing.assert_allclose(np.log(np.exp(log_weight).mean(("chain", "draw"))), model.log_evidence(x), atol=1e-6)


def test_log_weight_corrects_loo_of_draws_from_another_distribution():
    model = avi.models.LinearGaussian(torch.ones(3, 1, dtype=torch.float64), scale=3.0)
    x = model.simulate(40, seed=0)
    data = solved(model, widen=0.7).to_arviz(x, draws=4000, posterior_predictive=False, prior_draws=0, seed=0)
    log_likelihood = groups(data)["log_likelihood"]["x"]
    ratio = groups(data)["sample_stats"]["log_weight"] - log_likelihood  # prior over q, up to a factor
    weight = np.exp(ratio - ratio.max(("chain", "draw")))
    corrected = np.log((weight * np.exp(log_likelihood)).sum(("chain", "draw")) / weight.sum(("chain", "draw")))
    truth = model.log_evidence(x).numpy()
    assert np.abs(corrected - truth).mean() < 0.5 * np.abs(loo(data).pointwise - truth).mean()


def test_log_likelihood_is_double(exported):
    _, _, _, data = exported
    found = groups(data)
    assert {array.dtype for array in found["log_likelihood"].data_vars.values()} == {np.dtype("float64")}
    assert {array.dtype for array in found["sample_stats"].data_vars.values()} == {np.dtype("float64")}
    assert next(iter(found["posterior"].data_vars.values())).dtype == np.float32


def test_loo_where_draws_fit_badly():
    """In single precision ArviZ 0.x returns NaN for these, and ArviZ 1.x another number than in double."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    loc, log_scale = [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]
    vi = with_parameters(two_sites, torch.tensor([*loc, *log_scale]), x, avi.families.Diagonal)
    data = vi.to_arviz(x, draws=200, posterior_predictive=False, prior_draws=0, seed=0)
    assert groups(data)["log_likelihood"]["x"].min() < -1000
    assert np.isfinite(loo(data).total)


def test_compare(exported):
    _, vi, x, data = exported
    other = vi.to_arviz(x, draws=60, posterior_predictive=False, prior_draws=0, seed=1)
    table = compare({"one": data, "other": other})
    assert set(table.index) == {"one", "other"}
    assert np.isfinite(table.iloc[:, 1].astype(float)).all()


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.x on Matplotlib 3.11
@pytest.mark.filterwarnings("ignore:Variables x in 'predictive' look binary")  # ArviZ 1.x's advice on the digits
@pytest.mark.parametrize("plot", [*PLOTS, "predictive", "prior predictive"])
def test_plots(exported, plot):
    name, _, _, data = exported
    chosen = _two_observations(name, data)
    if plot in PLOTS:
        first = {**chosen, PLATES[name]: chosen[PLATES[name]][:1]}
        variable = "level" if name == "nested plate" else "z"
        PLOTS[plot](data, coords=chosen if plot == "forest" or variable == "level" else first, var_names=[variable])
    else:
        plot_predictive(data, prior=plot == "prior predictive")
    assert plt.gcf().axes
    plt.close("all")


# ------------------------------------------------------------------------------ labels and files


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_netcdf_and_back(exported, engine, tmp_path):
    _, _, _, data = exported
    data.to_netcdf(str(tmp_path / "run.nc"), engine=engine)
    back = arviz.from_netcdf(str(tmp_path / "run.nc"), engine=engine)
    assert dict(back.attrs) == dict(data.attrs)
    assert list(groups(back)) == list(groups(data))
    for group, dataset in groups(data).items():
        xarray.testing.assert_identical(groups(back)[group], dataset)
    if not IS_OLD:
        back.close()


def test_selection_by_label(exported):
    name, _vi, _x, data = exported
    if name == "vae":
        picked = groups(data)["posterior"].sel(data=["digit 3", "digit 1"])
        np.testing.assert_array_equal(picked["z"], groups(data)["posterior"]["z"][:, :, [3, 1]])
        assert groups(data)["observed_data"]["x"].sel(data="digit 7").shape == (64,)
        assert arviz.extract(data, var_names="z").sel(data="digit 3").shape == (3, 60)
        assert next(iter(arviz.summary(data, coords={"data": ["digit 3"]}, kind="stats").index)) == "z[digit 3, 0]"
    if name == "nested plate":
        assert groups(data)["posterior"]["drift"].sel(units=3, times=[0, 2]).shape == (1, 60, 2, 2)


LABELS = {
    "text": pd.Index(["a", "b", "c"]),
    "numbers": pd.Index([10, 20, 30]),
    "times": pd.date_range("2020-01-01", periods=3),
    "time zone": pd.date_range("2020-01-01", periods=3, tz="Europe/Paris"),
    "levels": pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]),
    "categories": pd.CategoricalIndex(["u", "v", "w"]),
    "periods": pd.period_range("2020-01", periods=3, freq="M"),
    "repeated": pd.Index(["a", "a", "b"]),
    "mixed": pd.Index(["a", 1, 2.5], dtype=object),
}


@pytest.mark.parametrize("kind", LABELS)
def test_any_index_of_a_data_frame(exact, kind, tmp_path):
    frame = pd.DataFrame(X[:3].numpy(), index=LABELS[kind])
    data = exact[0].to_arviz(frame, draws=4, prior_draws=0, seed=0)
    data.to_netcdf(str(tmp_path / "run.nc"))
    back = arviz.from_netcdf(str(tmp_path / "run.nc"))
    for group, dataset in groups(data).items():
        xarray.testing.assert_identical(groups(back)[group], dataset)
    labels = groups(data)["posterior"]["data"]
    if kind == "levels":
        assert list(labels.values) == ["a, 1", "a, 2", "b, 1"]
    elif kind in ("text", "numbers", "times"):
        assert (pd.Index(labels.values) == LABELS[kind]).all()
    if not IS_OLD:
        back.close()


def test_observations_that_a_loader_reads(exact):
    loader = DataLoader(TensorDataset(X), batch_size=8, drop_last=True)
    found = groups(exact[0].to_arviz(loader, draws=4, prior_draws=2, seed=0))
    assert found["posterior"].sizes["data"] == 24
    np.testing.assert_array_equal(found["observed_data"]["x"], X[:24])
    np.testing.assert_allclose(found["sample_stats"]["log_weight"][0, 0], EVIDENCE[:24], atol=1e-6)


# ------------------------------------------------------------------------------ unusual models


def _export(model, data, encoder):
    found = groups(fitted(model, encoder, data, "diagonal", epochs=1).to_arviz(data, draws=3, prior_draws=2, seed=0))
    return found, {group: {k: v.dims for k, v in dataset.data_vars.items()} for group, dataset in found.items()}


def test_a_plate_called_like_a_dimension_of_arviz():
    def model(x):
        with pyro.plate("draw", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    _, dims = _export(model, torch.randn(4), avi.encoders.MLP(1, []))
    assert dims["posterior"] == {"z": ("chain", "draw", "draw_dim")}


def test_an_argument_called_like_the_plate():
    def model(data, weight):
        with pyro.plate("data", data.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * weight, 1.0), obs=data.log())

    x = torch.rand(4) + 0.5
    found, dims = _export(model, (x, torch.ones(4)), avi.encoders.MLP(2, []))
    assert dims["constant_data"] == {"data_argument": ("data",), "weight": ("data",)}
    np.testing.assert_allclose(found["observed_data"]["x"], x.log())
    np.testing.assert_allclose(found["constant_data"]["data_argument"], x)


def test_names_in_scopes(tmp_path):
    def model(x):
        with pyro.plate("data", x.shape[0]), scope(prefix="part"):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    vi = fitted(model, avi.encoders.MLP(1, []), torch.randn(4), "diagonal", epochs=1)
    data = vi.to_arviz(torch.randn(4), draws=3, seed=0)
    assert list(groups(data)["posterior"]) == ["part.z"]
    data.to_netcdf(str(tmp_path / "run.nc"))


def test_arguments_without_names():
    def model(*args, **named):
        x, offset = args
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + offset, 1.0), obs=x)

    _, dims = _export(model, (torch.randn(4), torch.randn(4)), avi.encoders.MLP(2, []))
    assert dims["constant_data"] == {"args_1": ("data",)}


def test_a_factor_is_a_likelihood_and_no_data():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("fit", -((x - z) ** 2))

    x = torch.randn(4)
    found, dims = _export(model, x, avi.encoders.MLP(1, []))
    assert set(dims["log_likelihood"]) == {"fit"}
    np.testing.assert_allclose(found["log_likelihood"]["fit"], -((x.numpy() - found["posterior"]["z"]) ** 2), rtol=1e-4)
    assert "observed_data" not in dims
    assert "posterior_predictive" not in dims
    assert set(dims["constant_data"]) == {"x"}


def test_data_that_pyro_broadcasts_are_written_out():
    def model(x):
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("repeats", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.unsqueeze(-1))

    x = torch.randn(4)
    found, dims = _export(model, x, avi.encoders.MLP(1, []))
    assert dims["observed_data"] == {"x": ("data", "repeats")}
    np.testing.assert_array_equal(found["observed_data"]["x"], x.unsqueeze(-1).expand(4, 3))


def test_two_observed_sites_and_images():
    def model(image, label):
        with pyro.plate("data", image.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("image", dist.Normal(z[..., None, None], 1.0).expand([len(z), 3, 2]).to_event(2), obs=image)
            pyro.sample("label", dist.Bernoulli(logits=z), obs=label.float())

    label = torch.tensor([0, 1, 1, 0])
    found, dims = _export(model, (torch.randn(4, 3, 2), label), avi.encoders.MLP(7, []))
    assert dims["observed_data"] == {"image": ("data", "image_dim_0", "image_dim_1"), "label": ("data",)}
    assert "constant_data" not in dims
    total = found["log_likelihood"]["image"] + found["log_likelihood"]["label"]
    prior = dist.Normal(0.0, 1.0).log_prob(torch.tensor(found["posterior"]["z"].values))
    np.testing.assert_allclose(found["sample_stats"]["log_joint"], total + prior.numpy(), rtol=1e-5)


def test_options_are_checked(exact):
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        exact[0].to_arviz(X, draws=0)
    with pytest.raises(OptionError, match="prior_draws must be a positive integer"):
        exact[0].to_arviz(X, prior_draws=-1)
    with pytest.raises(NotFittedError, match="call fit first"):
        avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])).to_arviz(X)
