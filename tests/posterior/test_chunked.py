"""Posteriors of given observations, from any source and in chunks of any size, against the exact posteriors."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import amortvi as avi
from amortvi._util import memory
from amortvi.data import Batch, Chunk, TensorObservations
from amortvi.errors import DataError
from amortvi.posterior import Posterior
from tests.posterior.problem import MODEL
from tests.posterior.problem import X as ALL

X = ALL[:50]
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


@pytest.fixture
def posterior(exact: avi.AmortizedVI) -> Posterior:
    return exact.posterior(X)


@pytest.mark.parametrize("limit", [1, 64, 2**22])
@pytest.mark.parametrize("source", SOURCES)
def test_results_depend_neither_on_the_source_nor_on_chunks(
    exact: avi.AmortizedVI, source: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    found, std, draws = exact.posterior(SOURCES[source]), EXACT.variance.sqrt(), 40
    assert len(found) == 50
    assert torch.equal(found.first().args[0], X[:1])
    torch.testing.assert_close(found.mean["z"], EXACT.mean)
    torch.testing.assert_close(found.std["z"], std)
    torch.testing.assert_close(found.covariance, EXACT.covariance_matrix)
    torch.testing.assert_close(found.correlation, EXACT.covariance_matrix / std[:, :, None] / std[:, None, :])
    z = EXACT.mean + torch.arange(6.0).reshape(2, 3, 1, 1)
    torch.testing.assert_close(found.log_prob({"z": z}), EXACT.log_prob(z))
    torch.testing.assert_close(found.log_prob({"z": z[0, 0]}), EXACT.log_prob(z[0, 0]))
    low, median = found.quantiles([0.05, 0.5])["z"]
    torch.testing.assert_close(low, torch.distributions.Normal(EXACT.mean, std).icdf(torch.tensor(0.05).double()))
    torch.testing.assert_close(median, found.median["z"])
    drawn = found.sample(draws, seed=0)["z"]
    assert ((drawn.mean(0) - EXACT.mean) / std * draws**0.5).abs().max() < 5
    assert found.to_frame().shape == (150, 5)


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


@pytest.mark.parametrize("source", ["frame", "loader", "stream"])
def test_select(exact: avi.AmortizedVI, source: str) -> None:
    whole = exact.posterior(SOURCES[source])
    for rows in ([9, 3, -1, 9], slice(2, 8, 3), np.arange(50) % 20 == 3, 7):
        expected = np.atleast_1d(np.arange(50)[rows])
        chosen = whole.select(rows)
        assert len(chosen) == len(expected)
        torch.testing.assert_close(chosen.mean["z"], EXACT.mean[expected])
        assert chosen.index is None if source != "frame" else list(chosen.index) == list(FRAME.index[expected])


def test_in_memory_reads_the_observations_once(exact: avi.AmortizedVI, posterior: Posterior) -> None:
    assert posterior.in_memory() is posterior
    loaded = exact.posterior(SOURCES["stream"]).in_memory()
    assert loaded.observations.in_memory
    torch.testing.assert_close(loaded.mean["z"], EXACT.mean)


def test_posteriors_of_other_observations_are_recognized(exact: avi.AmortizedVI, posterior: Posterior) -> None:
    for same in (X.clone(), FRAME, SOURCES["loader"], SOURCES["stream"]):
        exact.posterior(same).check_same_observations(posterior)
    others = [exact.posterior(other) for other in (ALL[:49], X + 1, X.flip(0))]
    for batch in (Batch((X, X)), Batch((), {"x": X})):
        others.append(copy.copy(posterior))
        others[-1].observations = TensorObservations(batch, "x")
    for other in others:
        for one, two in ((posterior, other), (other, posterior)):
            with pytest.raises(DataError, match="posterior is not of the observations x"):
                one.check_same_observations(two)


def test_representation(exact: avi.AmortizedVI, posterior: Posterior) -> None:
    assert repr(posterior) == "Posterior(FullCovariance, 50 observations, z: (3,))"
    assert repr(posterior.select(0)) == "Posterior(FullCovariance, 1 observation, z: (3,))"
    assert repr(exact.posterior(SOURCES["stream"])) == "Posterior(FullCovariance, observations, z: (3,))"
