"""Whatever form the observations come in, the fit is the one that the tensor gives."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import amortvi as avi
from amortvi.data import as_observations

ROWS, FEATURES = 37, 3  # with batches of eight, the last one is smaller


class Regression(nn.Module):
    """Counts of one latent and a covariate; the arguments have names."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = torch.cat([z, z[:, :1]], dim=1)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)
            if y is not None:
                pyro.sample("y", dist.Poisson(z[:, 0].exp()), obs=y)


def data() -> Tensor:
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(0))


def counts() -> Tensor:
    return torch.poisson(torch.ones(ROWS), generator=torch.Generator().manual_seed(1)).long()


def fit(x: Any, features: int = FEATURES, **options: Any) -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(Regression(), avi.encoders.MLP(features, [8]))
    return vi.fit(x, **{"epochs": 2, "batch_size": 8, "lr": 0.05, "seed": 3, "progress": False, **options})


def assert_same_fit(one: avi.AmortizedVI, other: avi.AmortizedVI) -> None:
    state = other.guide.state_dict()
    for name, value in one.guide.state_dict().items():
        assert torch.equal(value, state[name]), name
    pd.testing.assert_series_equal(one.history["elbo"], other.history["elbo"])


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        data().numpy().astype(np.float64), columns=["a", "b", "c"], index=[f"row {i}" for i in range(ROWS)]
    )


def fortran() -> np.ndarray:
    return np.asfortranarray(data().numpy())


def read_only() -> np.ndarray:
    array = data().numpy().copy()
    array.flags.writeable = False
    return array


def nullable() -> pd.DataFrame:
    return frame().astype("Float64")


def big_endian() -> np.ndarray:
    return data().numpy().astype(">f8")


FORMS = {
    "float32": lambda: data().numpy(),
    "float64": lambda: data().numpy().astype(np.float64),
    "big endian": big_endian,
    "long double": lambda: data().numpy().astype(np.longdouble),
    "Fortran order": fortran,
    "read only": read_only,
    "reversed twice": lambda: data().numpy()[::-1].copy()[::-1],
    "frame": frame,
    "nullable frame": nullable,
    "nested list": lambda: data().tolist(),
    "tuple": lambda: (data(),),
    "tuple of arrays": lambda: (data().numpy().astype(np.float64),),
    "dict": lambda: {"x": data()},
    "dict of a frame": lambda: {"x": frame()},
    "tensor data set": lambda: TensorDataset(data()),
    "with gradients": lambda: data().requires_grad_(),
    "a view": lambda: torch.cat([data(), data()], dim=1)[:, :FEATURES],
}


@pytest.mark.parametrize("form", FORMS)
def test_one_argument(form: str) -> None:
    vi, reference = fit(FORMS[form]()), fit(data())
    assert_same_fit(vi, reference)
    given = FORMS[form]()
    mean = reference.posterior(data()).mean["z"]
    assert torch.equal(vi.posterior(given).mean["z"], mean)
    expected = reference.evaluate(data(), particles=3, seed=1)
    np.testing.assert_array_equal(vi.evaluate(given, particles=3, seed=1), expected)


TWO = {
    "arrays": lambda: (data().numpy().astype(np.float64), counts().numpy()),
    "frame and series": lambda: (frame(), pd.Series(counts().numpy())),
    "lists": lambda: (data().tolist(), counts().tolist()),
    "data set": lambda: TensorDataset(data(), counts()),
    "keywords": lambda: {"x": data(), "y": counts()},
    "keywords in another order": lambda: {"y": counts(), "x": data()},
    "32 bits": lambda: (data(), counts().int()),
    "unsigned": lambda: (data(), counts().numpy().astype(np.uint32)),
}


@pytest.mark.parametrize("form", TWO)
def test_two_arguments(form: str) -> None:
    class XOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(FEATURES, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            assert not y.is_floating_point()
            return self.layer(x)

    def run(x: Any) -> avi.AmortizedVI:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vi = avi.AmortizedVI(Regression(), XOnly())
        return vi.fit(x, epochs=2, batch_size=8, seed=3, progress=False)

    assert_same_fit(run(TWO[form]()), run((data(), counts())))


def test_keywords_reach_encoder_and_model_by_name() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(FEATURES + 1, 4)

        def forward(self, *, y: Tensor, x: Tensor) -> Tensor:
            return self.layer(torch.cat([x, y[:, None].float()], dim=1))

    vi = avi.AmortizedVI(Regression(), ByName())
    vi.fit({"y": counts(), "x": data()}, epochs=1, seed=0, progress=False)
    table = vi.evaluate({"x": data(), "y": counts()}, particles=2, seed=0)
    assert np.isfinite(table.to_numpy()).all()
    other = vi.evaluate({"y": counts() + 1, "x": data()}, particles=2, seed=0)
    assert (table["reconstruction"] != other["reconstruction"]).all()


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "bool"])
def test_integers_stay_integers(kind: str) -> None:
    array = counts().numpy().astype(kind)
    for x in (array, pd.DataFrame({"y": array}), pd.Series(array), torch.from_numpy(array), array.tolist()):
        (batch,) = as_observations(x, torch.float32).batches(ROWS)
        assert not batch.args[0].is_floating_point()
        assert batch.args[0].flatten().tolist() == array.tolist()


def test_columns_of_different_kinds() -> None:
    """Pandas has no common type for some of these; the numbers are there all the same."""
    columns = {"whole": [1, 2, 3], "real": [0.5, 1.5, 2.5], "flag": [True, False, True]}
    expected = torch.tensor([[1.0, 0.5, 1.0], [2.0, 1.5, 0.0], [3.0, 2.5, 1.0]])
    nullable = pd.DataFrame(
        {
            "whole": pd.array([1, 2, 3], dtype="Int64"),
            "real": pd.array([0.5, 1.5, 2.5], dtype="Float32"),
            "flag": pd.array([True, False, True], dtype="boolean"),
        }
    )
    for x in (pd.DataFrame(columns), nullable):
        assert torch.equal(as_observations(x, torch.float32).first(3).args[0], expected)
    flags = as_observations(nullable[["flag"]], torch.float32).first(3).args[0]
    assert flags.dtype == torch.bool
    whole = as_observations(nullable[["whole", "flag"]], torch.float32).first(3).args[0]
    assert whole.dtype == torch.int64
    assert whole.tolist() == [[1, 1], [2, 0], [3, 1]]
    assert as_observations(nullable["whole"], torch.float32).first(3).args[0].tolist() == [1, 2, 3]


def test_the_data_are_not_copied_for_nothing() -> None:
    array = np.zeros((5, 2), dtype=np.float32)
    (batch,) = as_observations(array, torch.float32).batches(5)
    assert batch.args[0].data_ptr() == array.ctypes.data


def test_the_users_data_stay_as_they_are() -> None:
    x, table = data(), frame()
    fit(x, validation_data=table)
    assert torch.equal(x, data())
    pd.testing.assert_frame_equal(table, frame())


# ----------------------------------------------------------------------------------------- data sets and data loaders


class Rows(Dataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


IN_ORDER = {
    "data set": lambda: Rows(data()),
    "data set of arrays of doubles": lambda: Rows(data().numpy().astype(np.float64)),
    "data set of tuples": lambda: Rows([(row,) for row in data()]),
    "stream": lambda: Stream(data()),
    "loader": lambda: DataLoader(Rows(data()), batch_size=8),
    "loader of a tensor data set": lambda: DataLoader(TensorDataset(data()), batch_size=5),
    "loader of a stream": lambda: DataLoader(Stream(data()), batch_size=8),
    "loader with batches of its own": lambda: DataLoader(Rows(data().split(8)), batch_size=None),
    "loader of doubles": lambda: DataLoader(TensorDataset(data().double()), batch_size=8),
    "loader of dicts": lambda: DataLoader(Rows([{"x": row} for row in data()]), batch_size=8),
}


@pytest.mark.parametrize("form", IN_ORDER)
def test_data_sets_and_loaders_answer_as_the_tensor_does(form: str) -> None:
    make = IN_ORDER[form]
    vi = fit(data())
    if form.endswith("dicts"):
        vi = fit({"x": data()})
    np.testing.assert_allclose(
        vi.posterior(make()).mean["z"], fit(data()).posterior(data()).mean["z"], rtol=1e-5, atol=1e-6
    )
    posterior = vi.posterior(make())
    assert len(posterior) == ROWS
    assert torch.isfinite(posterior.log_prob(posterior.sample(2, seed=0))).all()
    table = vi.evaluate(make(), particles=200, seed=0)
    expected = fit(data()).evaluate(data(), particles=200, seed=1)
    # The draws of a chunk depend on its size, so these are two estimates: within six standard errors of the difference.
    error = np.sqrt(table["elbo_se"] ** 2 + expected["elbo_se"] ** 2)
    assert (abs(table["elbo"] - expected["elbo"]) < 6 * error).all()


@pytest.mark.parametrize("form", IN_ORDER)
def test_data_sets_and_loaders_train(form: str) -> None:
    own = not form.startswith("loader")
    vi = fit(IN_ORDER[form](), batch_size=8 if own else None, epochs=15, validation_data=IN_ORDER[form]())
    assert vi.history["elbo"].iloc[-1] > vi.history["elbo"].iloc[0] + 1
    again = fit(IN_ORDER[form](), batch_size=8 if own else None, epochs=15, validation_data=IN_ORDER[form]())
    assert_same_fit(vi, again)


class Spy(nn.Module):
    """An encoder that notes the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 4)
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x[:, 0].tolist())
        return self.layer(x)


def batches_seen(x: Any, batch_size: int | None) -> list[list[float]]:
    spy = Spy()
    avi.AmortizedVI(Regression(), spy).fit(x, epochs=2, batch_size=batch_size, seed=0, progress=False)
    return spy.seen


def test_a_loader_gives_its_own_batches() -> None:
    expected = [part[:, 0].tolist() for part in data().split(10)]
    assert batches_seen(DataLoader(TensorDataset(data()), batch_size=10), None) == expected * 2


@pytest.mark.parametrize("make", [data, lambda: Rows(data()), lambda: DataLoader(Rows(data()), ROWS, shuffle=True)])
def test_shuffled_anew_each_epoch(make: Any) -> None:
    first, second = batches_seen(make(), None if isinstance(make(), DataLoader) else ROWS)
    assert sorted(first) == sorted(second) == sorted(data()[:, 0].tolist())
    assert first != second
    assert first != data()[:, 0].tolist()


def test_a_loader_that_drops_the_last_batch() -> None:
    loader = DataLoader(TensorDataset(data()), batch_size=8, drop_last=True)
    vi = fit(data())
    assert len(vi.posterior(loader)) == 32
    assert len(vi.evaluate(loader, particles=2, seed=0)) == 32
    torch.testing.assert_close(vi.posterior(loader).mean["z"], vi.posterior(data()).mean["z"][:32])


def test_sizes_that_are_known_and_that_are_not() -> None:
    def size(x: Any) -> int | None:
        return as_observations(x, torch.float32).size

    assert size(data()) == size(Rows(data())) == size(DataLoader(Rows(data()), batch_size=5)) == ROWS
    assert size(DataLoader(Rows(data()), batch_size=5, drop_last=True)) == 35
    assert size(DataLoader(Rows(data()), sampler=range(10))) == 10
    assert size(Stream(data())) is None
    assert size(DataLoader(Stream(data()), batch_size=5)) is None
    assert size(DataLoader(Rows(data()), batch_sampler=[[0, 1], [2]])) is None


# --------------------------------------------------------------------------------------------------- labels and order


def test_the_index_of_a_frame_comes_back() -> None:
    vi = fit(frame())
    assert list(vi.evaluate(frame(), particles=2, seed=0).index) == list(frame().index)
    tree = vi.to_arviz(frame(), 4, seed=0)
    assert list(tree["posterior"].coords["data"].values) == list(frame().index)
    chosen = frame().loc[["row 20", "row 3"]]
    table = vi.evaluate(chosen, particles=500, seed=0)
    assert list(table.index) == ["row 20", "row 3"]
    means = vi.posterior(frame()).mean["z"]
    torch.testing.assert_close(vi.posterior(chosen).mean["z"], means[[20, 3]])
    by_keyword = fit({"x": frame()})
    assert list(by_keyword.evaluate({"x": frame()}, particles=2, seed=0).index) == list(frame().index)


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
    ids=lambda index: type(index).__name__,
)
def test_any_index_can_be_exported(index: pd.Index, tmp_path: Any) -> None:
    table = frame().iloc[:4].set_axis(index)
    tree = fit(frame()).to_arviz(table, 4, seed=0)
    assert tree["posterior"].sizes["data"] == 4
    tree.to_netcdf(tmp_path / "run.nc")


@pytest.mark.parametrize("numbers", [1, 7, 50, 2**22])
def test_rows_keep_their_order_however_small_the_chunks(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = data()
    vi = fit(x, epochs=10)
    whole = vi.posterior(x)
    mean, quantiles = whole.mean["z"], whole.quantiles([0.1, 0.9])["z"]
    elbos = vi.evaluate(x, particles=300, seed=0)
    draws = whole.sample(300, seed=0)["z"]
    log_prob = whole.log_prob({"z": draws})
    monkeypatch.setattr("amortvi._util.chunks.NUMBERS_AT_ONCE", numbers)
    for form in (x, frame(), Rows(x), DataLoader(TensorDataset(x), batch_size=10)):
        posterior = vi.posterior(form)
        torch.testing.assert_close(posterior.mean["z"], mean)
        torch.testing.assert_close(posterior.quantiles([0.1, 0.9])["z"], quantiles)
        torch.testing.assert_close(posterior.log_prob({"z": draws}), log_prob)
    # Draws depend on the chunks, so their means are compared: six standard errors of the difference.
    drawn = vi.posterior(x).sample(300, seed=1)["z"]
    error = (draws.var(0) / 300 * 2).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 6 * error).all()
    table = vi.evaluate(x, particles=30, seed=0)
    error = np.sqrt(table["elbo_se"] ** 2 + elbos["elbo_se"] ** 2)
    # With 30 draws the error is itself estimated, hence eight of them.
    assert (abs(table["elbo"] - elbos["elbo"]) < 8 * error).all()
    np.testing.assert_allclose(table["kl"], elbos["kl"], rtol=1e-5)
    predicted = vi.predict(x, 30, seed=0)["x"]
    assert predicted.shape == (30, ROWS, FEATURES)
    # The decoder is the identity in its first two columns: prediction follows the posterior mean, row by row.
    spread = predicted[..., :2].std(0) / 30**0.5
    assert ((predicted[..., :2].mean(0) - mean).abs() < 8 * spread).all()
