"""Whatever form the observations come in, model and encoder see the same tensors."""

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

import amortvi as avi
from amortvi.data import Batch, as_observations
from amortvi.errors import DataError
from tests.data.forms import FEATURES, IN_MEMORY, READ_IN_ORDER, TWO_ARGUMENTS, Rows, counts, data, frame


def regression(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.cat([z, z[:, :1]], dim=1), 0.5).to_event(1), obs=x)
        if y is not None:
            pyro.sample("y", dist.Poisson(z[:, 0].exp()), obs=y)


def read(x: Any, batch_size: int | None = None) -> Batch:
    return Batch.concatenate(list(as_observations(x, torch.float32).batches(batch_size)))


@pytest.mark.parametrize("form", [*IN_MEMORY, *READ_IN_ORDER])
def test_one_argument(form: str) -> None:
    for batch_size in (None,) if form.startswith("loader") else (None, 8):
        (x,) = read({**IN_MEMORY, **READ_IN_ORDER}[form](), batch_size).args
        torch.testing.assert_close(x, data(), rtol=0, atol=0)
        assert not x.requires_grad


@pytest.mark.parametrize("form", TWO_ARGUMENTS)
def test_two_arguments(form: str) -> None:
    x, y = read(TWO_ARGUMENTS[form]()).args
    torch.testing.assert_close(x, data(), rtol=0, atol=0)
    assert not y.is_floating_point()
    assert torch.equal(y.long(), counts())


@pytest.mark.parametrize(
    "form",
    [
        lambda: {"x": data(), "y": counts()},
        lambda: {"x": frame(), "y": counts().numpy()},
        lambda: DataLoader(Rows([{"x": x, "y": y} for x, y in zip(data(), counts(), strict=True)]), batch_size=8),
    ],
    ids=["tensors", "frame", "loader"],
)
def test_keyword_arguments(form: Any) -> None:
    batch = read(form())
    assert batch.args == ()
    assert torch.equal(batch.kwargs["x"], data())
    assert torch.equal(batch.kwargs["y"].long(), counts())


def test_observations_are_returned_unchanged() -> None:
    observations = as_observations(data(), torch.float32)
    assert as_observations(observations, torch.float64) is observations


@pytest.mark.parametrize(
    "x",
    [3.0, "text", None, (), {}, object(), (data(), "text"), (data(), counts()[:-1]), iter([data()])],
    ids=[
        "number",
        "string",
        "none",
        "empty tuple",
        "empty dict",
        "object",
        "not numeric",
        "unequal lengths",
        "iterator",
    ],
)
def test_other_types_are_refused(x: Any) -> None:
    with pytest.raises(DataError, match="arg"):
        as_observations(x, torch.float32, "arg")


# ------------------------------------------------------------------------------------------------------- end to end


def fit(x: Any, **options: Any) -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(regression, avi.encoders.MLP(FEATURES, [8]))
    return vi.fit(x, **{"epochs": 2, "batch_size": 8, "lr": 0.05, "seed": 3, "progress": False, **options})


def assert_same_fit(one: avi.AmortizedVI, other: avi.AmortizedVI) -> None:
    state = other.guide.state_dict()
    for name, value in one.guide.state_dict().items():
        assert torch.equal(value, state[name]), name
    pd.testing.assert_series_equal(one.history["elbo"], other.history["elbo"])


@pytest.mark.parametrize("form", ["float64", "frame", "tuple"])
def test_fits_and_results_do_not_depend_on_the_form(form: str) -> None:
    given, reference = IN_MEMORY[form], fit(data())
    vi = fit(given(), validation_data=given())
    assert_same_fit(vi, reference)
    assert torch.equal(vi.posterior(given()).mean["z"], reference.posterior(data()).mean["z"])
    found, expected = (each.evaluate(x, particles=3, seed=1) for each, x in ((vi, given()), (reference, data())))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", ["data set", "stream", "loader of a tensor data set"])
def test_data_sets_and_loaders_train_reproducibly(form: str) -> None:
    batch_size = None if form.startswith("loader") else 8
    one, other = (fit(READ_IN_ORDER[form](), batch_size=batch_size, epochs=6, validation_data=data()) for _ in range(2))
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
    table = vi.evaluate({"x": data(), "y": counts()}, particles=2, seed=0)
    assert np.isfinite(table.to_numpy()).all()
    other = vi.evaluate({"y": counts() + 1, "x": data()}, particles=2, seed=0)
    assert (table["reconstruction"] != other["reconstruction"]).all()


def test_the_users_data_are_not_changed() -> None:
    x, table = data(), frame()
    fit(x, validation_data=table, epochs=1)
    assert torch.equal(x, data())
    pd.testing.assert_frame_equal(table, frame())


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return avi.AmortizedVI(regression, avi.encoders.MLP(FEATURES, [])).setup(frame(), seed=0)


@pytest.mark.parametrize("x", [frame(), (frame(), counts())[:1], {"x": frame()}], ids=["frame", "tuple", "dict"])
def test_results_are_labeled_by_the_index_of_a_frame(x: Any) -> None:
    vi = avi.AmortizedVI(regression, avi.encoders.MLP(FEATURES, [])).setup(x, seed=0)
    assert list(vi.evaluate(x, particles=2, seed=0).index) == list(frame().index)
    assert list(vi.to_arviz(x, 4, seed=0)["posterior"].coords["data"].values) == list(frame().index)


def test_selected_rows_of_a_frame_keep_labels_and_values(vi: avi.AmortizedVI) -> None:
    chosen = frame().loc[["row 20", "row 3"]]
    assert list(vi.evaluate(chosen, particles=2, seed=0).index) == ["row 20", "row 3"]
    torch.testing.assert_close(vi.posterior(chosen).mean["z"], vi.posterior(frame()).mean["z"][[20, 3]])


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_product([["a", "b"], [1, 2]]),
        pd.date_range("2020-01-01", periods=4),
        pd.date_range("2020-01-01", periods=4, tz="Europe/Paris"),
        pd.CategoricalIndex(["u", "v", "w", "x"]),
        pd.Index([1, 1, 2, 2]),
        pd.Index([0.5, 1.5, 2.5, 3.5]),
        pd.period_range("2020-01", periods=4, freq="M"),
        pd.Index(["a", 1, None, 2.5], dtype=object),
    ],
    ids=lambda index: f"{type(index).__name__} of {index.dtype}",
)
def test_any_index_can_be_exported(vi: avi.AmortizedVI, index: pd.Index, tmp_path: Any) -> None:
    tree = vi.to_arviz(frame().iloc[:4].set_axis(index), 4, prior_draws=2, seed=0)
    assert tree["posterior"].sizes["data"] == 4
    tree.to_netcdf(tmp_path / "run.nc")
