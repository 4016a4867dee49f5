"""Walks over observations: selection, sources of every kind, and results that do not depend on chunks."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import amortvi as avi
from amortvi._util import chunks
from amortvi.data import Chunk
from amortvi.errors import DataError
from amortvi.posterior import Posterior
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(50, seed=1)
EXACT = MODEL.posterior(X)
FRAME = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(50)])


class Rows(Dataset[Any]):
    """A data set that is not a `TensorDataset`."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> torch.Tensor:
        return X[row]


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __iter__(self) -> Any:
        return iter(X)


SOURCES = {
    "memory": X,
    "frame": FRAME,
    "data set": Rows(),
    "loader": DataLoader(Rows(), batch_size=8),
    "one batch": DataLoader(Rows(), batch_size=100),
    "stream": DataLoader(Stream(), batch_size=7),
}


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return solved(MODEL)


@pytest.fixture(scope="module")
def posterior(vi: avi.AmortizedVI) -> Posterior:
    return vi.posterior(X)


@pytest.mark.parametrize("limit", [1, 64, 2**22])
@pytest.mark.parametrize("source", SOURCES)
def test_results_depend_neither_on_the_source_nor_on_chunks(
    vi: avi.AmortizedVI, source: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", limit)
    found = vi.posterior(SOURCES[source])
    assert len(found) == 50
    torch.testing.assert_close(found.mean["z"], EXACT.mean)
    torch.testing.assert_close(found.covariance, EXACT.covariance_matrix)
    z = EXACT.mean + torch.arange(3.0).reshape(3, 1, 1)
    torch.testing.assert_close(found.log_prob({"z": z}), EXACT.log_prob(z))
    quantiles = found.quantiles([0.2, 0.5])["z"]
    torch.testing.assert_close(quantiles[1], EXACT.mean)
    assert found.sample(3, seed=0)["z"].shape == (3, 50, 3)
    assert found.to_frame().shape == (150, 5)


def test_draws_belong_to_their_observations(vi: avi.AmortizedVI, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = 200
    for limit in (7, 100, 2**22):
        monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", limit)
        z = vi.posterior(X[:10]).sample(draws, seed=limit)["z"]
        error = (z.mean(0) - EXACT.mean[:10]) / EXACT.variance[:10].sqrt() * draws**0.5
        assert error.abs().max() < 5


def test_map_chunks_runs_in_inference_mode(posterior: Posterior) -> None:
    seen: list[tuple[bool, bool, range]] = []

    def compute(chunk: Chunk, q: torch.distributions.Distribution) -> dict[str, torch.Tensor]:
        seen.append((torch.is_grad_enabled(), posterior.network.training, chunk.rows))
        return {"mean": q.mean}

    posterior.network.train()
    found = posterior.map_chunks(compute, probe=lambda chunk, q: {"mean": q.mean})
    assert posterior.network.training
    torch.testing.assert_close(found["mean"], EXACT.mean)
    assert seen == [(False, False, range(50))]
    posterior.network.eval()


def test_data_are_checked_on_request() -> None:
    model = avi.models.VAE(nn.Linear(2, 5), 2, "poisson")
    counts = torch.ones(4, 5)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(5, [])).setup(counts, seed=0)
    posterior = vi.posterior(counts - 2)
    assert posterior.map_chunks(lambda chunk, q: {"mean": q.mean})["mean"].shape == (4, 2)
    with pytest.raises(DataError, match="observed site 'x'"):
        posterior.map_chunks(lambda chunk, q: {"mean": q.mean}, check_data=True)


def test_the_widest_layer_of_the_encoder_limits_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 1000), nn.Linear(1000, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows.append(x.shape[0])
            return self.second(self.first(x).relu())

    x = MODEL.simulate(100, seed=0).float()
    posterior = avi.AmortizedVI(linear_gaussian(dtype=torch.float32), Wide(), "full").setup(x, seed=0).posterior(x)
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 20_000)
    rows.clear()
    _ = posterior.mean
    assert max(rows) == 20
    assert rows.count(20) == 5


# ------------------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (slice(2, 8, 3), [2, 5]),
        ([4, 0, -1, 4], [4, 0, 49, 4]),
        (7, [7]),
        (torch.tensor([3, 1]), [3, 1]),
        (np.arange(50) % 20 == 3, [3, 23, 43]),
    ],
    ids=["slice", "list", "integer", "tensor", "mask"],
)
@pytest.mark.parametrize("source", ["memory", "loader", "stream"])
def test_select(vi: avi.AmortizedVI, source: str, rows: Any, expected: list[int]) -> None:
    chosen = vi.posterior(SOURCES[source]).select(rows)
    assert len(chosen) == len(expected)
    torch.testing.assert_close(chosen.mean["z"], EXACT.mean[expected])


def test_select_keeps_the_labels(vi: avi.AmortizedVI) -> None:
    chosen = vi.posterior(FRAME).select([9, 3])
    assert list(chosen.index) == ["row 9", "row 3"]
    torch.testing.assert_close(chosen.mean["z"], EXACT.mean[[9, 3]])


def test_select_refuses_invalid_rows(posterior: Posterior) -> None:
    with pytest.raises(DataError, match=r"rows must be positions from -50 to 49; got 50\."):
        posterior.select([50])


def test_a_loader_that_drops_its_last_batch(vi: avi.AmortizedVI) -> None:
    posterior = vi.posterior(DataLoader(Rows(), batch_size=8, drop_last=True))
    torch.testing.assert_close(posterior.mean["z"], EXACT.mean[:48])
    assert posterior.sample(2, seed=0)["z"].shape == (2, 48, 3)


def test_in_memory_reads_the_observations_once(vi: avi.AmortizedVI, posterior: Posterior) -> None:
    assert posterior.in_memory() is posterior
    loaded = vi.posterior(SOURCES["stream"]).in_memory()
    assert loaded.observations.in_memory
    assert loaded.size == 50
    torch.testing.assert_close(loaded.mean["z"], EXACT.mean)


def test_posteriors_of_other_observations_are_recognized(vi: avi.AmortizedVI, posterior: Posterior) -> None:
    for same in (X.clone(), FRAME, SOURCES["loader"], SOURCES["stream"]):
        vi.posterior(same).check_same_observations(posterior)
    for other in (X[:49], X + 1, X.flip(0)):
        with pytest.raises(DataError, match="posterior is not of the observations x"):
            vi.posterior(other).check_same_observations(posterior)


def test_representation(vi: avi.AmortizedVI, posterior: Posterior) -> None:
    assert repr(posterior) == "Posterior(FullCovariance, 50 observations, z: (3,))"
    assert repr(posterior.select(0)) == "Posterior(FullCovariance, 1 observation, z: (3,))"
    assert repr(vi.posterior(SOURCES["stream"])) == "Posterior(FullCovariance, observations, z: (3,))"
    assert posterior.label == repr(avi.families.FullCovariance(head=False))


def test_the_first_observation(vi: avi.AmortizedVI) -> None:
    for source in SOURCES.values():
        assert torch.equal(vi.posterior(source).first().args[0], X[:1])


def test_several_arguments_and_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each observation keeps its own arguments, in chunks of any size."""
    import pyro
    from pyro import distributions as dist

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)

    data = {"y": torch.arange(9.0), "x": torch.randn(9)}
    vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(data, seed=0)
    expected = vi.posterior(data).mean["z"]
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 6)
    torch.testing.assert_close(vi.posterior(data).mean["z"], expected)
    loader = DataLoader(TensorDataset(data["x"], data["y"]), batch_size=4)
    positional = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(loader, seed=0)
    assert positional.posterior(loader).mean["z"].shape == (9,)
