"""ArviZ's own functions, applied to exports: summaries, leave-one-out, plots, files, selection by label."""

import logging

import arviz
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray

import amortvi as avi
from tests.arviz_versions import IS_OLD, PLOTS, groups, loo, plot_predictive
from tests.exact import solved, with_parameters
from tests.io.exports import CHAINS, DRAWS, PLATES, X, two_sites


def two_observations(exported):
    plate = PLATES[exported.name]
    return {plate: list(groups(exported.data)["posterior"][plate].values[:2])}


def test_summary_and_extract(exported, caplog):
    data, chosen = exported.data, two_observations(exported)
    posterior = groups(data)["posterior"].sel(chosen)
    with caplog.at_level(logging.WARNING):
        table = arviz.summary(data, coords=chosen)
    assert not caplog.records  # ArviZ 0.x would log that a single chain has no r-hat
    assert len(table) == sum(array[0, 0].size for array in posterior.data_vars.values())
    assert (table["r_hat"].astype(float) < 1.3).all()  # independent draws, but few
    assert arviz.extract(data, num_samples=7).sizes["sample"] == 7


def test_draws_are_independent(exported):
    """The effective sample size, averaged over all latents, is about the number of draws."""
    ess = arviz.ess(exported.data)
    ess = ess.to_dataset() if isinstance(ess, xarray.DataTree) else ess
    assert 0.75 < np.mean([array.values.mean() for array in ess.data_vars.values()]) / (CHAINS * DRAWS) < 1.5


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution:UserWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.sort_values")  # ArviZ 0.x on pandas
def test_loo_and_compare(exported):
    found, plate = loo(exported.data), PLATES[exported.name]
    assert found.pointwise.dims == (plate,)
    assert found.pointwise.shape == found.pareto_k.shape == (groups(exported.data)["posterior"].sizes[plate],)
    other = exported.vi.to_arviz(exported.x, draws=DRAWS, posterior_predictive=False, prior_draws=0, seed=1)
    table = arviz.compare({"one": exported.data, "other": other})
    assert set(table.index) == {"one", "other"}
    assert np.isfinite(table.iloc[:, 1].astype(float)).all()


def test_loo_of_exact_draws_estimates_the_evidence():
    """No other observation carries information about the latents of one, so leaving it out leaves the prior."""
    model = avi.models.LinearGaussian(torch.ones(3, 1, dtype=torch.float64), scale=5.0)
    x = model.simulate(40, seed=0)
    data = solved(model).to_arviz(x, draws=2000, posterior_predictive=False, prior_draws=0, seed=0)
    evidence, found = float(model.log_evidence(x).sum()), loo(data)
    assert found.pareto_k.max() < 0.7
    within_sample = float(np.log(np.exp(groups(data)["log_likelihood"]["x"]).mean(("chain", "draw"))).sum())
    assert abs(found.total - evidence) < 0.2 * (within_sample - evidence)


def test_log_weight_corrects_loo_of_inexact_draws():
    model = avi.models.LinearGaussian(torch.ones(3, 1, dtype=torch.float64), scale=3.0)
    x = model.simulate(40, seed=0)
    data = solved(model, widen=0.7).to_arviz(x, draws=4000, posterior_predictive=False, prior_draws=0, seed=0)
    log_likelihood = groups(data)["log_likelihood"]["x"]
    ratio = groups(data)["sample_stats"]["log_weight"] - log_likelihood  # log prior - log q
    weight = np.exp(ratio - ratio.max(("chain", "draw")))
    corrected = np.log((weight * np.exp(log_likelihood)).sum(("chain", "draw")) / weight.sum(("chain", "draw")))
    truth = model.log_evidence(x).numpy()
    assert np.abs(corrected - truth).mean() < 0.8 * np.abs(loo(data).pointwise - truth).mean()


def test_loo_of_draws_that_fit_badly_is_finite():
    """In single precision ArviZ 0.x returns NaN here, and ArviZ 1.x a different number than in double precision."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    loc, log_scale = [0.0, 0.0, 0.0], [0.0, 0.0, 0.5]
    vi = with_parameters(two_sites, torch.tensor([*loc, *log_scale]), x, avi.families.Diagonal)
    data = vi.to_arviz(x, draws=200, posterior_predictive=False, prior_draws=0, seed=0)
    assert groups(data)["log_likelihood"]["x"].min() < -1000
    assert np.isfinite(loo(data).total)


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.x with Matplotlib 3.11
@pytest.mark.filterwarnings("ignore:Variables x in 'predictive' look binary")  # ArviZ 1.x about the digits
@pytest.mark.parametrize("plot", [*PLOTS, "predictive", "prior predictive"])
def test_plots(exported, plot):
    plate, chosen = PLATES[exported.name], two_observations(exported)
    if plot in PLOTS:
        variable = "level" if exported.name == "nested plate" else "z"
        coords = chosen if plot == "forest" or variable == "level" else {plate: chosen[plate][:1]}
        PLOTS[plot](exported.data, coords=coords, var_names=[variable])
    else:
        plot_predictive(exported.data, prior=plot == "prior predictive")
    assert plt.gcf().axes
    plt.close("all")


def assert_file_keeps(data, path, **options):
    """Write an export to a NetCDF file, and compare it with what is read from the file."""
    data.to_netcdf(str(path), **options)
    loaded = arviz.from_netcdf(str(path), **options)
    assert dict(loaded.attrs) == dict(data.attrs)
    assert list(groups(loaded)) == list(groups(data))
    for group, dataset in groups(data).items():
        xarray.testing.assert_identical(groups(loaded)[group], dataset)
    if not IS_OLD:
        loaded.close()


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_netcdf_files(exported, engine, tmp_path):
    assert_file_keeps(exported.data, tmp_path / "run.nc", engine=engine)


def test_selection_by_label(exported):
    data, posterior = exported.data, groups(exported.data)["posterior"]
    if exported.name == "vae":
        np.testing.assert_array_equal(posterior["z"].sel(data=["digit 3", "digit 1"]), posterior["z"][:, :, [3, 1]])
        assert groups(data)["observed_data"]["x"].sel(data="digit 7").shape == (64,)
        assert arviz.extract(data, var_names="z").sel(data="digit 3").shape == (3, CHAINS * DRAWS)
        assert next(iter(arviz.summary(data, coords={"data": ["digit 3"]}, kind="stats").index)) == "z[digit 3, 0]"
    if exported.name == "nested plate":
        assert posterior["drift"].sel(units=3, times=[0, 2]).shape == (CHAINS, DRAWS, 2, 2)


DATES = pd.date_range("2020-01-01", periods=3)
LABELS = {
    "text": (["a", "b", "c"], ["a", "b", "c"]),
    "numbers": ([10, 20, 30], [10, 20, 30]),
    "times": (DATES, DATES),
    "time zone": (DATES.tz_localize("Europe/Paris"), [f"2020-01-0{day} 00:00:00+01:00" for day in (1, 2, 3)]),
    "levels": (pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]), ["a, 1", "a, 2", "b, 1"]),
    "categories": (pd.CategoricalIndex(["u", "v", "w"]), ["u", "v", "w"]),
    "periods": (pd.period_range("2020-01", periods=3, freq="M"), ["2020-01", "2020-02", "2020-03"]),
    "repeated": (["a", "a", "b"], ["a", "a", "b"]),
    "mixed": (pd.Index(["a", 1, 2.5], dtype=object), ["a", "1", "2.5"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_any_index_of_a_data_frame(exact, kind, tmp_path):
    index, labels = LABELS[kind]
    data = exact.vi.to_arviz(pd.DataFrame(X[:3].numpy(), index=index), draws=4, prior_draws=0, seed=0)
    assert_file_keeps(data, tmp_path / "run.nc")
    assert (pd.Index(groups(data)["posterior"]["data"].values) == pd.Index(labels)).all()
