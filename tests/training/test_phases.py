"""What a fit with default options reaches, when it ends, and what it says about that."""

import numpy as np
import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.errors import ConvergenceWarning, DataError, NotFittedError, OptionError
from tests.exact import linear_gaussian
from tests.training.problem import X, make_vi

MODEL = linear_gaussian(2, 3, dtype=torch.float32)
DATA = MODEL.simulate(500, seed=0)


def locked(vi: avi.AmortizedVI) -> torch.Tensor:
    """Return the covariances of two coordinates."""
    covariance: torch.Tensor = vi.posterior(X[:10]).covariance[:, 0, 1]
    return covariance


def test_a_posterior_that_is_trained_with_a_decoder_is_diagonal_at_first() -> None:
    seen = []

    def rates(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: (seen.append(float(locked(vi).abs().max())), 1)[1]
        )

    vi = make_vi("full").setup(X, seed=0)
    vi.fit(X, epochs=20, lr=0.01, lr_schedule=rates, seed=0, progress=False)
    assert max(seen[:6]) == 0
    assert min(seen[12:]) > 0


def test_the_posteriors_of_a_fixed_model_are_correlated_from_the_start() -> None:
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(3, []), "full", freeze_model=True)
    assert vi.fit(DATA, epochs=1, progress=False).posterior(DATA[:5]).covariance[:, 0, 1].abs().min() > 0


@pytest.mark.parametrize("family", ["full", "low_rank"])
def test_an_interrupted_fit_keeps_its_posteriors(family: str) -> None:
    """Ctrl-C while the off-diagonal parameters learn at half their rate."""
    posteriors = []

    class Interrupting(torch.optim.Adam):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            if len(vi.history) == 7:
                posteriors.append(locked(vi))
                raise KeyboardInterrupt
            super().step(closure)

    vi = make_vi(family)
    vi.fit(X, epochs=20, lr=0.05, optimizer=Interrupting, batch_size=len(X), compile=False, seed=0, progress=False)
    assert vi.status == "interrupted"
    assert posteriors[0].abs().max() > 0
    torch.testing.assert_close(locked(vi), posteriors[0])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "gap"), [("diagonal", MODEL.diagonal_gap()), ("low_rank", 0.0), ("full", 0.0)])
def test_a_fit_without_options_converges_to_the_optimum_of_its_family(family: str, gap: float) -> None:
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(3, []), family, freeze_model=True).fit(DATA, seed=0, progress=False)
    bounds = vi.evaluate(DATA, particles=100, seed=0)
    loss = MODEL.log_evidence(DATA).numpy() - bounds["elbo"].to_numpy()
    noise = np.sqrt((bounds["elbo_se"] ** 2).sum()) / len(DATA)
    assert vi.status == "converged"
    assert loss.mean() == pytest.approx(gap, abs=0.01 + 5 * noise)
    if family == "full":
        # The exact covariance is the same for all observations.
        exact = torch.linalg.inv(MODEL.precision()).float()
        assert ((vi.posterior(DATA[:20]).covariance - exact).norm(dim=(1, 2)) / exact.norm()).max() < 0.02


def test_status_and_summary() -> None:
    vi = make_vi()
    assert vi.status is None
    with pytest.raises(NotFittedError):
        vi.summary()
    vi.fit(X, epochs=1, lr=1e-5, progress=False)
    assert vi.status == "budget"
    assert "1 epoch," in vi.summary()
    assert "budget (the fit was too short to tell" in vi.summary()
    assert repr(vi) == "AmortizedVI(family='full', epochs=1, status='budget')"
    vi.fit(X, epochs=40, lr=1e-3, lr_schedule="constant", progress=False)
    assert vi.status == "still rising"
    vi.fit(X, validation_data=X[:50], epochs=30, patience=1, lr=1.0, progress=False)
    assert vi.status == "stopped early"


def test_whoever_uses_a_fit_that_has_not_converged_is_told_once() -> None:
    vi = make_vi().fit(X, epochs=1, lr=1e-5, progress=False)
    with pytest.warns(ConvergenceWarning, match="is not known to have converged"):
        vi.evaluate(X[:5])
    vi.evaluate(X[:5])
    vi.fit(X, epochs=1, progress=False)
    with pytest.warns(ConvergenceWarning):
        vi.to_arviz(X[:5], draws=5, prior_draws=0, seed=0)


def test_a_fraction_of_the_data_can_validate() -> None:
    vi = make_vi().fit(X, validation_data=0.2, epochs=2, seed=0, progress=False)
    assert vi.history["validation_elbo"].notna().all()
    train, held_out = avi.data.as_observations(X, torch.float32, "x").split(0.2, 0)
    assert (train.size, held_out.size) == (240, 60)
    rows = torch.cat([train.as_batch().args[0], held_out.as_batch().args[0]])
    assert torch.equal(rows.sort(dim=0).values, X.sort(dim=0).values)
    for fraction in (0.0, 1.0, -0.5):
        with pytest.raises(DataError, match="validation_data"):
            make_vi().fit(X, validation_data=fraction, progress=False)
    with pytest.raises(DataError, match=r"validation_data=0\.001"):
        make_vi().fit(X, validation_data=0.001, progress=False)
    loader = torch.utils.data.DataLoader(X, batch_size=10)
    with pytest.raises(DataError, match="in memory"):
        make_vi().fit(loader, validation_data=0.1, progress=False)


def test_the_learning_rate_of_each_step_falls() -> None:
    vi = make_vi().fit(X, epochs=4, lr=0.01, progress=False)
    assert vi.history["learning_rate"].is_monotonic_decreasing
    assert vi.history["learning_rate"].iloc[-1] < 0.005
    constant = make_vi().fit(X, epochs=4, lr=0.01, lr_schedule="constant", progress=False)
    assert set(constant.history["learning_rate"]) == {0.01}
    with pytest.raises(OptionError, match="lr_schedule"):
        make_vi().fit(X, lr_schedule="cosine", progress=False)  # type: ignore[arg-type]


def test_a_single_layer_without_off_diagonal_parameters_has_nothing_to_unlock() -> None:
    family = avi.families.FullCovariance(head=False)
    encoder = nn.Linear(3, 5)
    vi = avi.AmortizedVI(avi.models.VAE(nn.Linear(2, 3), 2, "normal"), encoder, family)
    vi.fit(X, epochs=1, progress=False)
    assert locked(vi).abs().min() > 0


def test_the_summary_is_that_of_the_epoch_that_was_kept() -> None:
    """Thirty observations and a decoder: the fit overfits, and only ``patience`` returns to the best epoch."""
    x, held_out = X[:30], X[100:200]
    model = avi.models.VAE(nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 3)), 2, "normal")
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, [32]), "full")
    options = {"validation_data": held_out, "seed": 0, "progress": False}
    vi.fit(x, epochs=400, patience=100, **options)
    validation = vi.history["validation_elbo"]
    assert vi.convergence.epoch == validation.idxmax() < len(validation)
    assert f"best at epoch {validation.idxmax()}" in vi.summary()
    vi.fit(x, epochs=1, lr=1e-30, lr_schedule="constant", optimizer=torch.optim.SGD, **options)
    assert vi.history["validation_elbo"].iloc[-1] == pytest.approx(validation.max())
    vi.fit(x, **options)
    assert vi.convergence.overfits
    assert vi.convergence.epoch == len(vi.history)
