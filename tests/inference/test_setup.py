"""`AmortizedVI.setup`: an estimator that works without training."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.errors import DataError, EncoderError, NotFittedError
from tests.inference.problem import MODEL, X, make_vi


def state_of(vi: avi.AmortizedVI) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in vi.guide.state_dict().items()}


def assert_same_state(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_setup_creates_the_family_and_changes_nothing_else() -> None:
    vi = make_vi()
    before, model = state_of(vi), copy.deepcopy(MODEL.state_dict())
    assert not any("family" in name for name in before)
    assert vi.setup(X, seed=0) is vi
    after = state_of(vi)
    assert any("family" in name for name in after)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert_same_state(model, dict(MODEL.state_dict()))
    assert vi.history.empty
    assert repr(vi) == "AmortizedVI(family='full', epochs=0)"


def test_everything_works_after_setup() -> None:
    vi = make_vi().setup(X, seed=0)
    assert vi.posterior(X).mean["z"].shape == (20, 2)
    assert np.isfinite(vi.evaluate(X, particles=3)).all(axis=None)
    assert vi.predict(X, 3)["x"].shape == (3, 20, 3)
    assert vi.sample_prior(4)["x"].shape == (4, 3)
    assert vi.to_arviz(X, 3)["posterior"].attrs["objective"] == "none"
    torch.testing.assert_close(vi.refine(X).mean["z"], MODEL.posterior(X).mean, atol=0.05, rtol=0)


@pytest.mark.parametrize("family", ["full", "flow"])
def test_fit_starts_from_the_parameters_of_setup(family: str) -> None:
    vi = make_vi(family).setup(X, seed=3)
    before = state_of(vi)
    vi.fit(X, epochs=1, lr=1e-30, standardize=False, optimizer=torch.optim.SGD, seed=0, progress=False)
    for name, value in state_of(vi).items():
        torch.testing.assert_close(value, before[name], atol=1e-25, rtol=0)


def test_setup_before_fit_with_the_same_seed_changes_nothing() -> None:
    options: dict[str, Any] = {"epochs": 2, "seed": 0, "progress": False}
    one, two = make_vi().fit(X, **options), make_vi().setup(X, seed=0).fit(X, **options)
    assert_same_state(state_of(one), state_of(two))


def test_only_the_seed_determines_the_parameters() -> None:
    first, other = state_of(make_vi().setup(X, seed=0)), state_of(make_vi().setup(X, seed=1))
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    for form in (X.numpy().astype(np.float64), pd.DataFrame(X.numpy()), DataLoader(TensorDataset(X), 20, shuffle=True)):
        vi, before = make_vi(), torch.get_rng_state()
        assert_same_state(first, state_of(vi.setup(form, seed=0)))
        assert torch.equal(torch.get_rng_state(), before)


def test_further_calls_keep_the_parameters() -> None:
    vi = make_vi().setup(X, seed=0)
    before = state_of(vi)
    vi.setup(X[:3], seed=1)
    assert_same_state(before, state_of(vi))
    with pytest.raises(DataError, match="x must have observations of shape"):
        vi.setup(torch.zeros(5, 4))
    vi.fit(X, epochs=1, seed=0, progress=False)
    before, history = state_of(vi), vi.history
    vi.setup(X)
    assert_same_state(before, state_of(vi))
    pd.testing.assert_frame_equal(vi.history, history)


def test_bad_data_leave_the_estimator_as_it_was() -> None:
    vi = make_vi()
    before = state_of(vi)
    for bad, error in ((torch.full((4, 3), torch.nan), DataError), (torch.zeros(5, 4), EncoderError)):
        with pytest.raises(error):
            vi.setup(bad)
    assert_same_state(before, state_of(vi))
    with pytest.raises(NotFittedError, match="fit or setup"):
        vi.posterior(X)
    assert_same_state(state_of(vi.setup(X, seed=0)), state_of(make_vi().setup(X, seed=0)))
