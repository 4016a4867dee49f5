"""The fit loop: random state, validation, early stopping, interruption, non-finite losses."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.errors import OptionError
from tests.training.problem import X, make_vi, parameters


@pytest.mark.parametrize("family", ["diagonal", "low_rank", "full", "flow"])
def test_same_seed_gives_the_same_parameters_bit_for_bit(family: str) -> None:
    one, two, other = (make_vi(family, dropout=0.2) for _ in range(3))
    torch.manual_seed(1)
    one.fit(X, epochs=3, seed=5, progress=False)
    torch.manual_seed(2)
    two.fit(X, epochs=3, seed=5, progress=False)
    assert torch.equal(parameters(one), parameters(two))
    other.fit(X, epochs=3, seed=6, progress=False)
    assert not torch.equal(parameters(one), parameters(other))


def test_without_a_seed_the_global_generator_is_used() -> None:
    fits = []
    for _ in range(2):
        torch.manual_seed(11)
        fits.append(make_vi().fit(X, epochs=2, progress=False))
    assert torch.equal(parameters(fits[0]), parameters(fits[1]))


def test_a_seed_leaves_the_random_state_untouched() -> None:
    vi = make_vi()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    vi.fit(X, epochs=2, seed=0, progress=False)
    vi.posterior(X).sample(3, seed=0)
    vi.evaluate(X, particles=3, seed=0)
    vi.predict(X, 3, seed=0)
    vi.sample_prior(3, seed=0)
    vi.to_arviz(X[:20], 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_history_and_validation() -> None:
    vi = make_vi().fit(X[:200], validation_data=X[200:], epochs=3, seed=0, progress=False)
    history = vi.history
    assert history.index.name == "epoch"
    parts = ["elbo", "reconstruction", "kl"]
    assert list(history.columns) == [*parts, *(f"validation_{part}" for part in parts), "learning_rate", "seconds"]
    assert np.isfinite(history.to_numpy()).all()
    np.testing.assert_allclose(history["elbo"], history["reconstruction"] - history["kl"], rtol=1e-5)
    evaluated = vi.evaluate(X[200:], particles=1000, seed=0)
    # The history uses one draw for each of the 100 observations.
    error = 5 * math.sqrt(1000) * np.sqrt((evaluated["elbo_se"] ** 2).sum()) / 100
    assert abs(history["validation_elbo"].iloc[-1] - evaluated["elbo"].mean()) < error
    assert "validation_elbo" not in make_vi().fit(X, epochs=1, progress=False).history


def test_validation_does_not_change_the_training() -> None:
    plain = make_vi(dropout=0.2).fit(X, epochs=3, seed=0, progress=False)
    validated = make_vi(dropout=0.2).fit(X, validation_data=X[:50], epochs=3, seed=0, progress=False)
    assert torch.equal(parameters(plain), parameters(validated))


def test_early_stopping_restores_the_best_parameters() -> None:
    # The learning rate is so high that the validation ELBO soon falls.
    options = {"validation_data": X[200:], "lr": 0.2, "lr_schedule": "constant", "seed": 0, "progress": False}
    vi = make_vi("diagonal").fit(X[:40], epochs=300, patience=3, **options)
    best = int(vi.history["validation_elbo"].idxmax())
    assert len(vi.history) == best + 3 < 300
    again = make_vi("diagonal").fit(X[:40], epochs=best, **options)
    assert torch.equal(parameters(vi), parameters(again))
    with pytest.raises(OptionError, match="patience needs validation_data"):
        make_vi().fit(X, patience=3, progress=False)


def test_training_raises_the_elbo() -> None:
    history = make_vi().fit(X, epochs=60, lr=0.01, seed=0, progress=False).history
    assert history["elbo"].iloc[-1] > history["elbo"].iloc[0] + 1


def test_frozen_model_does_not_change() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = avi.models.VAE(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), 2, "normal")
        vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [8]), freeze_model=True)
    before = copy.deepcopy(model.state_dict())
    vi.fit(X, epochs=20, lr=0.01, seed=0, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert vi.history["elbo"].iloc[-1] > vi.history["elbo"].iloc[0]
    assert model.training


def test_modes_are_restored_and_posteriors_have_no_dropout() -> None:
    vi = make_vi(dropout=0.5)
    vi.encoder.eval()
    vi.fit(X, epochs=1, progress=False)
    assert not vi.encoder.training
    vi.encoder.train()
    first, second = vi.posterior(X).mean["z"], vi.posterior(X).mean["z"]
    assert torch.equal(first, second)
    assert vi.encoder.training


def test_ctrl_c_ends_the_fit_and_keeps_what_was_learned() -> None:
    class Interrupting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = avi.encoders.MLP(3, [8])
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            if self.training and self.calls == 9:
                raise KeyboardInterrupt
            return self.layers(x)

    vi = avi.AmortizedVI(avi.models.VAE(nn.Linear(2, 3), 2, "normal"), Interrupting(), "diagonal")
    # Three steps per epoch: the ninth is the last of epoch 3.
    vi.fit(X, epochs=50, seed=0, progress=False)
    assert len(vi.history) == 2
    assert np.isfinite(vi.evaluate(X)["elbo"]).all()
    vi.fit(X, epochs=1, progress=False)
    assert list(vi.history.index) == [1, 2, 3]


def test_progress_bar_is_optional(capfd: pytest.CaptureFixture[str]) -> None:
    make_vi().fit(X, epochs=1, progress=False)
    make_vi().fit(X, epochs=1)  # standard error is not a terminal
    assert capfd.readouterr() == ("", "")
    make_vi().fit(X, validation_data=X, epochs=2, progress=True)
    shown = capfd.readouterr().err
    assert "epoch 2/2" in shown
    assert "elbo=" in shown
    assert "validation=" in shown
