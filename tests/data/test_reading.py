"""Whatever form the observations come in, model and encoder see the same tensors."""

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch, as_observations
from tests.data.forms import FEATURES, FORMS, counts, data, frame


def regression(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([z, z[:, :1]], dim=1), 0.5).to_event(1), obs=x)
        if y is not None:
            pyro.sample("y", dist.Poisson(z[:, 0].exp()), obs=y)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tensors(form: str) -> None:
    for batch_size in (None,) if form.startswith("loader") else (None, 8):
        observations = as_observations(FORMS[form](), torch.float32)
        assert as_observations(observations, torch.float64) is observations
        batch = Batch.concatenate(list(observations.batches(batch_size)))
        assert set(batch.kwargs) == ({"x", "y"} if "dict" in form else set())
        x, *rest = batch.tensors()
        torch.testing.assert_close(x, data(), rtol=0, atol=0)
        assert not x.requires_grad
        for y in rest:
            assert not y.is_floating_point()
            assert torch.equal(y.long(), counts())


def fit(x: Any, **options: Any) -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(regression, avi.encoders.MLP(FEATURES, [8]))
    return vi.fit(x, **{"epochs": 2, "batch_size": 8, "lr": 0.05, "seed": 3, "progress": False, **options})


def assert_same_fit(one: avi.AmortizedVI, other: avi.AmortizedVI) -> None:
    state = other.guide.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.guide.state_dict().items())
    pd.testing.assert_series_equal(one.history["elbo"], other.history["elbo"])


@pytest.fixture(scope="module")
def reference() -> avi.AmortizedVI:
    return fit(data())


@pytest.mark.parametrize("form", ["float64", "frame"])
def test_fits_and_results_do_not_depend_on_the_form(form: str, reference: avi.AmortizedVI) -> None:
    x = FORMS[form]()
    vi = fit(x, validation_data=x)
    assert_same_fit(vi, reference)
    assert torch.equal(vi.posterior(x).mean["z"], reference.posterior(data()).mean["z"])
    found, expected = vi.evaluate(x, particles=3, seed=1), reference.evaluate(data(), particles=3, seed=1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(x, FORMS[form]())  # the user's data are not changed


@pytest.mark.parametrize("form", ["data set", "stream", "loader of a tensor data set"])
def test_data_sets_and_loaders_train_reproducibly(form: str) -> None:
    batch_size = None if form.startswith("loader") else 8
    one, other = (fit(FORMS[form](), batch_size=batch_size, epochs=6, validation_data=data()) for _ in range(2))
    assert_same_fit(one, other)
    # Thirty steps gain several nats, and the ELBO of an epoch varies by a few tenths.
    assert one.history["elbo"].iloc[-1] > one.history["elbo"].iloc[0]


def test_keywords_reach_encoder_and_model_by_name() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(FEATURES + 1, 4)

        def forward(self, *, y: Tensor, x: Tensor) -> Tensor:
            return self.layer(torch.cat([x, y[:, None].float()], dim=1))

    vi = avi.AmortizedVI(regression, ByName()).setup({"y": counts(), "x": data()}, seed=0)
    one, other = (vi.evaluate({"x": data(), "y": y}, particles=2, seed=0) for y in (counts(), counts() + 1))
    assert np.isfinite(one.to_numpy()).all()
    assert (one["reconstruction"] != other["reconstruction"]).all()


def test_results_are_labeled_by_the_index_of_a_frame(reference: avi.AmortizedVI) -> None:
    assert list(reference.evaluate((frame(),), particles=2, seed=0).index) == list(frame().index)
    chosen = frame().loc[["row 20", "row 3"]]
    assert list(reference.evaluate(chosen, particles=2, seed=0).index) == ["row 20", "row 3"]
    torch.testing.assert_close(reference.posterior(chosen).mean["z"], reference.posterior(data()).mean["z"][[20, 3]])
