"""Names of variables and dimensions of unusual models."""

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.contrib.autoname import scope

import amortvi as avi
from tests.arviz_versions import groups

X = torch.linspace(0.5, 1.5, 4)


def export(model, data, features):
    """Return the groups of an export, and the dimensions of their variables."""
    vi = avi.AmortizedVI(model, avi.encoders.MLP(features, [])).setup(data, seed=0)
    found = groups(vi.to_arviz(data, draws=3, prior_draws=2, seed=0))
    return found, {name: {k: v.dims for k, v in group.data_vars.items()} for name, group in found.items()}


def test_a_plate_with_the_name_of_an_arviz_dimension():
    def model(x):
        with pyro.plate("draw", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    _, dims = export(model, X, 1)
    assert dims["posterior"] == {"z": ("chain", "draw", "draw_dim")}


def test_an_argument_with_the_name_of_the_plate():
    def model(data, weight):
        with pyro.plate("data", data.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * weight, 1.0), obs=data.log())

    found, dims = export(model, (X, torch.ones(4)), 2)
    assert dims["constant_data"] == {"data_argument": ("data",), "weight": ("data",)}
    np.testing.assert_allclose(found["observed_data"]["x"], X.log())
    np.testing.assert_allclose(found["constant_data"]["data_argument"], X)


def test_slashes_of_scopes_are_replaced(tmp_path):
    def model(x):
        with pyro.plate("data", x.shape[0]), scope(prefix="part"):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found, dims = export(model, X, 1)
    assert list(dims["posterior"]) == ["part.z"]
    found["posterior"].to_netcdf(tmp_path / "run.nc")


def test_arguments_without_names():
    def model(*args, **named):
        x, offset = args
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + offset, 1.0), obs=x)

    _, dims = export(model, (X, torch.ones(4)), 2)
    assert dims["constant_data"] == {"args_1": ("data",)}


def test_a_factor_is_a_likelihood_without_data():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("fit", -((x - z) ** 2))

    found, dims = export(model, X, 1)
    assert set(dims["log_likelihood"]) == {"fit"}
    expected = -((X.numpy() - found["posterior"]["z"]) ** 2)
    np.testing.assert_allclose(found["log_likelihood"]["fit"], expected, rtol=1e-4, atol=1e-6)
    assert not {"observed_data", "posterior_predictive"} & dims.keys()
    assert set(dims["constant_data"]) == {"x"}


def test_broadcast_data_are_expanded():
    def model(x):
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("repeats", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.unsqueeze(-1))

    found, dims = export(model, X, 1)
    assert dims["observed_data"] == {"x": ("data", "repeats")}
    np.testing.assert_array_equal(found["observed_data"]["x"], X.unsqueeze(-1).expand(4, 3))


def test_two_observed_sites_and_images():
    def model(image, label):
        with pyro.plate("data", image.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("image", dist.Normal(z[..., None, None], 1.0).expand([len(z), 3, 2]).to_event(2), obs=image)
            pyro.sample("label", dist.Bernoulli(logits=z), obs=label.float())

    image = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    _, dims = export(model, (image, torch.tensor([0, 1, 1, 0])), 7)
    assert dims["observed_data"] == {"image": ("data", "image_dim_0", "image_dim_1"), "label": ("data",)}
    assert "constant_data" not in dims
    assert dims["log_likelihood"] == dict.fromkeys(("image", "label"), ("chain", "draw", "data"))
