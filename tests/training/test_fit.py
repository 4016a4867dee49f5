"""What a fit promises: reproducibility, going on, early stopping, schedules, Ctrl-C, no change of global state."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.errors import NonFiniteError, OptionError

X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]]), scale=0.5).simulate(300, seed=0)


def _start(family: str = "full", dropout: float = 0.0) -> avi.AmortizedVI:
    torch.manual_seed(7)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    model = avi.models.VAE(decoder, 2, "normal")
    return avi.AmortizedVI(model, avi.encoders.MLP(3, [8], dropout=dropout), family)


def _numbers(vi: avi.AmortizedVI) -> torch.Tensor:
    model = vi.model
    assert isinstance(model, nn.Module)
    return torch.cat([p.detach().flatten() for p in (*vi.guide.parameters(), *model.parameters())])


@pytest.mark.parametrize("family", ["diagonal", "low_rank", "full"])
def test_same_seed_gives_the_same_parameters_bit_for_bit(family: str) -> None:
    fits = [_start(family, dropout=0.2) for _ in range(2)]
    torch.manual_seed(1)
    fits[0].fit(X, epochs=3, seed=5, progress=False)
    torch.manual_seed(2)
    fits[1].fit(X, epochs=3, seed=5, progress=False)
    assert torch.equal(_numbers(fits[0]), _numbers(fits[1]))
    other = _start(family, dropout=0.2).fit(X, epochs=3, seed=6, progress=False)
    assert not torch.equal(_numbers(fits[0]), _numbers(other))


def test_without_a_seed_the_callers_generator_decides() -> None:
    fits = []
    for _ in range(2):
        torch.manual_seed(11)
        fits.append(_start().fit(X, epochs=2, progress=False))
    assert torch.equal(_numbers(fits[0]), _numbers(fits[1]))


def test_a_seed_leaves_the_callers_random_state_alone() -> None:
    vi = _start()
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


def test_fit_goes_on_from_where_it_was() -> None:
    """Two fits of two epochs are one of four: parameters, optimizer, shuffling and noise go on."""
    whole = _start().fit(X, epochs=4, seed=0, progress=False)
    parts = _start().fit(X, epochs=2, seed=0, progress=False).fit(X, epochs=2, seed=0, progress=False)
    assert torch.equal(_numbers(whole), _numbers(parts))
    assert list(parts.history.index) == [1, 2, 3, 4]
    assert np.array_equal(whole.history["elbo"], parts.history["elbo"])


def test_a_saved_fit_goes_on_from_where_it_was(tmp_path: object) -> None:
    whole = _start().fit(X, epochs=4, seed=0, progress=False)
    half = _start().fit(X, epochs=2, seed=0, progress=False)
    half.save(str(tmp_path))
    fresh = _start()
    loaded = avi.AmortizedVI.load(str(tmp_path), fresh.model, fresh.encoder)
    assert torch.equal(_numbers(half), _numbers(loaded))
    pd_history = half.history.drop(columns="seconds")
    assert pd_history.equals(loaded.history.drop(columns="seconds"))
    assert np.array_equal(half.evaluate(X, seed=0), loaded.evaluate(X, seed=0))
    loaded.fit(X, epochs=2, seed=0, progress=False)
    assert torch.equal(_numbers(whole), _numbers(loaded))


def test_history_and_validation() -> None:
    vi = _start().fit(X[:200], validation_data=X[200:], epochs=3, seed=0, progress=False)
    history = vi.history
    assert history.index.name == "epoch"
    assert list(history.columns) == [
        "elbo",
        "reconstruction",
        "kl",
        "validation_elbo",
        "validation_reconstruction",
        "validation_kl",
        "learning_rate",
        "seconds",
    ]
    assert np.isfinite(history.to_numpy()).all()
    np.testing.assert_allclose(history["elbo"], history["reconstruction"] - history["kl"], rtol=1e-5)
    evaluated = vi.evaluate(X[200:], particles=1000, seed=0)
    # One draw of each of 100 observations after the last epoch, against a thousand.
    error = 5 * math.sqrt(1000) * np.sqrt((evaluated["elbo_se"] ** 2).sum()) / 100
    assert abs(history["validation_elbo"].iloc[-1] - evaluated["elbo"].mean()) < error
    assert "validation_elbo" not in _start().fit(X, epochs=1, progress=False).history


def test_validation_changes_nothing_of_the_training() -> None:
    plain = _start(dropout=0.2).fit(X, epochs=3, seed=0, progress=False)
    watched = _start(dropout=0.2).fit(X, validation_data=X[:50], epochs=3, seed=0, progress=False)
    assert torch.equal(_numbers(plain), _numbers(watched))


def test_early_stopping_restores_the_best_parameters() -> None:
    # So high a learning rate that the validation ELBO soon falls.
    vi = _start().fit(X[:40], validation_data=X[200:], epochs=200, lr=0.2, patience=3, seed=0, progress=False)
    validation = vi.history["validation_elbo"]
    best = int(validation.idxmax())
    assert len(vi.history) == best + 3 < 200
    again = _start().fit(X[:40], validation_data=X[200:], epochs=best, lr=0.2, seed=0, progress=False)
    assert torch.equal(_numbers(vi), _numbers(again))


def test_training_raises_the_elbo() -> None:
    vi = _start()
    vi.fit(X, epochs=60, lr=0.01, seed=0, progress=False)
    assert vi.history["elbo"].iloc[-1] > vi.history["elbo"].iloc[0] + 1


def test_learning_rate_schedules() -> None:
    halving = _start().fit(
        X, epochs=3, lr=0.1, lr_schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), progress=False
    )
    np.testing.assert_allclose(halving.history["learning_rate"], [0.1, 0.05, 0.025])
    plateau = _start().fit(
        X,
        validation_data=X,
        epochs=3,
        lr=0.1,
        lr_schedule=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(
            o, patience=0, threshold=1e9, threshold_mode="abs"
        ),
        progress=False,
    )
    np.testing.assert_allclose(plateau.history["learning_rate"], [0.1, 0.1, 0.01])
    halving.fit(X, epochs=1, lr=0.3, progress=False)
    assert halving.history["learning_rate"].iloc[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.SGD,
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.ASGD,
        torch.optim.Rprop,
        torch.optim.LBFGS,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True),
    ],
)
def test_any_torch_optimizer(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    vi = _start().fit(X, epochs=1, lr=1e-3, seed=0, progress=False)
    start = vi.evaluate(X, seed=0)["elbo"].mean()
    vi.fit(X, epochs=8, lr=3e-3, batch_size=300, optimizer=optimizer, seed=0, gradient_clip=10.0, progress=False)
    assert vi.evaluate(X, seed=0)["elbo"].mean() > start


def test_gradient_clipping_bounds_the_step() -> None:
    vi = _start().fit(X, epochs=1, lr=1e-12, batch_size=300, optimizer=torch.optim.SGD, seed=0, progress=False)
    before = _numbers(vi)
    vi.fit(X, epochs=1, lr=1.0, batch_size=300, optimizer=torch.optim.SGD, gradient_clip=0.01, seed=0, progress=False)
    assert (_numbers(vi) - before).norm() == pytest.approx(0.01, rel=1e-3)


def test_float64_all_the_way() -> None:
    vi = _start().fit(X.double(), epochs=2, dtype=torch.float64, seed=0, progress=False)
    assert _numbers(vi).dtype == torch.float64
    assert vi.posterior(X.double()).covariance.dtype == torch.float64
    assert vi.predict(X.double(), 2)["x"].dtype == torch.float64
    vi.to(dtype=torch.float32).fit(X, epochs=1, progress=False)
    assert vi.posterior(X).mean["z"].dtype == torch.float32


def test_frozen_model_is_not_touched() -> None:
    torch.manual_seed(0)
    model = avi.models.VAE(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), 2, "normal")
    before = copy.deepcopy(model.state_dict())
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [8]), freeze_model=True).fit(X, epochs=3, seed=0, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert vi.history["elbo"].iloc[-1] > vi.history["elbo"].iloc[0]
    assert model.training


def test_ctrl_c_ends_the_fit_and_keeps_what_was_learned() -> None:
    class Interrupting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = avi.encoders.MLP(3, [8])
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 10:
                raise KeyboardInterrupt
            return self.layers(x)

    torch.manual_seed(0)
    vi = avi.AmortizedVI(avi.models.VAE(nn.Linear(2, 3), 2, "normal"), Interrupting(), "diagonal")
    # Three steps an epoch after the one look at the example: the tenth call is the last step of the third epoch.
    vi.fit(X, epochs=50, seed=0, progress=False)
    assert len(vi.history) == 2
    assert np.isfinite(vi.evaluate(X)["elbo"]).all()
    vi.fit(X, epochs=1, progress=False)
    assert list(vi.history.index) == [1, 2, 3]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_parameters() -> None:
    steps_to_live = math.inf

    def model(x: torch.Tensor) -> None:
        nonlocal steps_to_live
        steps_to_live -= 1
        shift = 0.0 if steps_to_live >= 0 else math.nan
        weight = pyro.param("weight", torch.ones(3))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) * weight + shift, 1.0).to_event(1), obs=x)

    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [8])).fit(X, epochs=2, seed=0, progress=False)
    good = [p.detach().clone() for p in (*vi.guide.parameters(), *vi.model.parameters())]
    steps_to_live = 2  # one run looks at the data, before the first epoch
    with pytest.raises(
        NonFiniteError, match=r"epoch 3, step 2: .*observed site 'x' is not finite for 128 of 128.*before epoch 3"
    ):
        vi.fit(X, epochs=5, seed=0, progress=False)
    assert len(vi.history) == 2
    now = [*vi.guide.parameters(), *vi.model.parameters()]
    assert all(torch.equal(one, two) for one, two in zip(good, now, strict=True))


def test_progress_is_silent_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    _start().fit(X, epochs=1, progress=False)
    assert capfd.readouterr() == ("", "")
    _start().fit(X, validation_data=X, epochs=2, progress=True)
    shown = capfd.readouterr().err
    assert "epoch 2/2" in shown
    assert "elbo=" in shown
    assert "validation=" in shown


def test_patience_needs_validation_data() -> None:
    with pytest.raises(OptionError, match="patience needs validation_data"):
        _start().fit(X, patience=3, progress=False)


def test_modes_come_back_and_posteriors_have_no_dropout() -> None:
    vi = _start(dropout=0.5)
    vi.encoder.eval()
    vi.fit(X, epochs=1, progress=False)
    assert not vi.encoder.training
    vi.encoder.train()
    first, second = vi.posterior(X).mean["z"], vi.posterior(X).mean["z"]
    assert torch.equal(first, second)
    assert vi.encoder.training
