"""Missing values: what is filled, what is marked, and what the encoder makes of it."""

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.errors import DataError, OptionError

NAN = float("nan")
X = torch.tensor([[1.0, NAN, 3.0], [4.0, 5.0, NAN], [NAN, 8.0, 6.0]])
SEEN = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
FRAME = pd.DataFrame(X.numpy(), columns=["a", "b", "c"], index=["u", "v", "w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    filled, observed = avi.mask_missing(x)
    assert torch.equal(observed, SEEN)
    assert torch.equal(filled, torch.where(SEEN, x, 0.0))
    assert filled.dtype == dtype
    assert x.isnan().sum() == 3  # the user's tensor is not changed
    assert torch.equal(avi.mask_missing(x, fill=-9.0)[0], torch.where(SEEN, x, -9.0))
    means = torch.tensor([2.5, 6.5, 4.5], dtype=dtype)
    assert torch.equal(avi.mask_missing(x, fill="mean")[0], torch.where(SEEN, x, means))


def test_arrays_and_frames_keep_their_type_and_labels() -> None:
    for value in (X.numpy(), X.numpy().astype(float), X.tolist()):
        filled, observed = avi.mask_missing(value)
        assert isinstance(filled, np.ndarray)
        np.testing.assert_array_equal(filled, np.nan_to_num(X.numpy()))
        np.testing.assert_array_equal(observed, SEEN.numpy())
    nullable = FRAME.astype("Float64").astype({"a": "Int64"})
    for frame in (FRAME, nullable):
        filled, observed = avi.mask_missing(frame)
        for found, expected in ((filled, X.nan_to_num()), (observed, SEEN)):
            assert list(found.index) == ["u", "v", "w"]
            assert list(found.columns) == ["a", "b", "c"]
            np.testing.assert_array_equal(found.to_numpy(), expected.numpy())
    filled, observed = avi.mask_missing(FRAME["b"])
    assert filled.to_dict() == {"u": 0.0, "v": 5.0, "w": 8.0}
    assert observed.to_dict() == {"u": False, "v": True, "w": True}


def test_numbers_that_stand_for_missing_values() -> None:
    counts = torch.tensor([[0, -1], [3, 2]])
    filled, observed = avi.mask_missing(counts, missing=-1)
    assert filled.tolist() == [[0, 0], [3, 2]]
    assert filled.dtype == torch.int64
    assert observed.tolist() == [[True, False], [True, True]]
    assert avi.mask_missing(counts)[1].all()
    assert avi.mask_missing(torch.tensor([NAN, -1.0, 2.0]), missing=-1)[1].tolist() == [False, False, True]


def test_missing_values_in_padded_sequences() -> None:
    frame = pd.DataFrame({"subject": ["b", "b", "a"], "u": [1.0, NAN, 3.0], "v": [4.0, 5.0, NAN]})
    padded = avi.mask_missing(avi.pad(frame, by="subject", length=3))
    values, observed = padded
    assert observed.tolist() == [[[True, True], [False, True], [False] * 2], [[True, False], [False] * 2, [False] * 2]]
    assert values.tolist() == [[[1, 4], [0, 5], [0, 0]], [[3, 0], [0, 0], [0, 0]]]
    assert list(padded[0].shape) == [2, 3, 2]
    assert list(padded.labels) == ["b", "a"]
    means, _ = avi.mask_missing(avi.pad(frame, by="subject"), fill="mean")
    assert means.tolist() == [[[1, 4], [2, 5]], [[3, 4.5], [2, 4.5]]]


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (np.array(["a"]), {}, DataError, "x must hold numbers"),
        (torch.zeros(0, 2), {}, DataError, "x has no observations"),
        (
            torch.tensor([[1.0, NAN], [2.0, NAN]]),
            {"fill": "mean"},
            DataError,
            r"it has none of feature \[1\]|feature \[1\]",
        ),
        (torch.tensor([1, 2]), {"fill": "mean"}, OptionError, "fill='mean' needs real numbers"),
        (torch.tensor([1, 2]), {"fill": 0.5}, OptionError, "fill must be an integer"),
        (
            torch.tensor([1, 2], dtype=torch.uint8),
            {"fill": 300},
            OptionError,
            r"fill must be in the range of torch\.uint8",
        ),
        (torch.tensor([True]), {"fill": 2}, OptionError, r"fill must be in the range of torch\.bool"),
        (X, {"fill": 1e300}, OptionError, r"fill must be in the range of torch\.float32"),
        (X, {"fill": "median"}, OptionError, "fill must be a finite number"),
        (X, {"missing": "none"}, OptionError, "missing must be a finite number"),
    ],
)
def test_what_is_refused(x: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        avi.mask_missing(x, **options)


def partly_observed(x: Tensor, observed: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(5.0 + 3.0 * z.unsqueeze(-1), 2.0).mask(observed).to_event(1), obs=x)


def data(rows: int, seed: int) -> Tensor:
    """Draw from the model, with a fraction of missing values that differs from row to row."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 1, generator=generator)
    x = 5 + 3 * z + 2 * torch.randn(rows, 4, generator=generator)
    missing = torch.rand(rows, 4, generator=generator) < torch.rand(rows, 1, generator=generator)
    return x.masked_fill(missing, NAN)


def test_the_error_for_nan_names_the_function() -> None:
    with pytest.raises(DataError, match=r"avi\.mask_missing\(x\[0\]\)"):
        avi.AmortizedVI(partly_observed, avi.encoders.MLP(8)).fit((X, SEEN))


def test_a_perceptron_learns_the_posterior_of_what_was_observed() -> None:
    """The posterior is normal, with precision 1 + (9 / 4) n for n observed values."""
    vi = avi.AmortizedVI(partly_observed, avi.encoders.MLP(8, [64, 64]))
    vi.fit(avi.mask_missing(data(4000, 0)), epochs=40, seed=0, progress=False)
    x = data(500, 1)
    posterior = vi.posterior(avi.mask_missing(x))
    count = (~x.isnan()).sum(1)
    variance = 1 / (1 + 9 / 4 * count)
    mean = variance * 3 / 4 * torch.where(x.isnan(), 0.0, x - 5).sum(1)
    # In units of the exact posterior: an error of 0.15 loses 0.011 nats.
    assert ((posterior.mean["z"] - mean) / variance.sqrt()).square().mean().sqrt() < 0.15
    assert (posterior.std["z"] / variance.sqrt()).log().abs().mean() < 0.1
    # Standardized inputs do not depend on what replaces missing values.
    other = vi.posterior(avi.mask_missing(x, fill="mean")).mean["z"]
    torch.testing.assert_close(other, posterior.mean["z"], rtol=0, atol=1e-6)
