"""The fault of fits with known faults, and every branch of the rule."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import amortvi as avi
from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.gaps import Diagnosis, Gaps, diagnose
from amortvi.errors import NotFittedError
from amortvi.training import Convergence
from amortvi.training.learning_curve import Gain
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(200, seed=1)
TEST = MODEL.simulate(40, seed=2)
LONG = {"epochs": 60, "lr": 0.1, "lr_schedule": lambda optimizer: CosineAnnealingLR(optimizer, 60)}


@pytest.mark.parametrize(
    ("fault", "family", "bottleneck", "tolerance", "options"),
    [
        ("ok", "full", None, 0.1, LONG),
        ("family", "diagonal", None, 0.1, LONG),
        ("encoder", "full", 1, 1.0, LONG),
        ("optimizer", "full", None, 0.1, {"epochs": 20, "lr": 5e-4}),
        ("optimizer", "full", None, 0.1, {"epochs": 5, "lr": 5e-4}),
    ],
)
def test_fits_with_known_faults(fault, family, bottleneck, tolerance, options) -> None:
    """A linear encoder is exact for this model; one with a bottleneck of one feature loses about ten nats."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, bottleneck) if bottleneck else nn.Identity())
    vi = avi.AmortizedVI(MODEL, encoder, family, freeze_model=True)
    objective = avi.objectives.ELBO(gradient="sticking_the_landing")
    fixed = {"batch_size": 50, "objective": objective, "dtype": torch.float64, "seed": 0, "progress": False}
    vi.fit(X, validation_data=TEST, **fixed, **options)
    found = diagnose(vi, TEST, tolerance=tolerance)
    assert found.fault == fault
    assert str(found).startswith(fault)
    for part in ("nats per observation", "to the family", "to the encoder"):
        assert part in found.statement
    if options is LONG and not bottleneck:  # a linear encoder can be exact, so only the approximation gap is left
        assert found.loss.encoder < 0.05
        assert found.loss.family == pytest.approx(MODEL.diagonal_gap() if family == "diagonal" else 0, abs=0.05)


def diagnosed(
    approximation,
    amortization,
    *,
    reliable=True,
    status="converged",
    gain=0.0,
    frozen=False,
    spread=0.0,
    climb=100.0,
    is_validated=False,
):
    """Return a diagnosis of 20 observations with these mean gaps and of a fit that ended like this."""
    zero = torch.zeros(20, dtype=torch.float64)
    varying = amortization * (1 + spread * torch.linspace(-1, 1, 20, dtype=torch.float64))

    def evidence(elbo: Tensor | float, k_hat: float) -> Evidence:
        return Evidence(zero, zero, zero, zero + elbo, zero, zero + k_hat, zero + 100, draws=1000)

    amortized, refined = evidence(-approximation - varying, 0.9), evidence(-approximation, 0.5)
    gaps = Gaps("diagonal", amortized, {"diagonal": refined}, evidence(0.0, 0.3 if reliable else 0.9), tolerance=0.1)
    ended = Convergence(status, 50, Gain(gain, 0.001), climb, is_validated)
    return Diagnosis(gaps, ended, frozen)


@pytest.mark.parametrize(
    ("approximation", "amortization", "options", "fault"),
    [
        (0.05, 0.04, {}, "ok"),
        (1.0, 0.5, {}, "family"),
        (0.5, 1.0, {}, "encoder"),
        (0.5, 1.0, {"reliable": False}, "unreliable"),
        # Still rising: by more than the family loses, by less, and with a loss within the tolerance.
        (0.5, 0.1, {"status": "still rising", "gain": 2.0}, "optimizer"),
        (3.0, 0.1, {"status": "still rising", "gain": 2.0}, "family"),
        (0.0, 0.0, {"status": "still rising", "gain": 2.0}, "optimizer"),
        # The fault is the family's, but not the encoder's, before the fit has converged.
        (0.5, 1.0, {"status": "budget", "gain": math.nan}, "optimizer"),
        (1.0, 0.5, {"status": "budget", "gain": math.nan}, "family"),
        # Noise that hides a small gain is no reason to blame the optimizer.
        (0.5, 1.0, {"status": "budget"}, "encoder"),
        # With a frozen model, training can gain no more than is lost.
        (0.02, 0.02, {"status": "still rising", "gain": 2.0, "frozen": True}, "ok"),
        (0.2, 1.0, {"status": "still rising", "gain": 9.0, "frozen": True}, "optimizer"),
        # Variation between observations does not make the mean loss less certain.
        (0.0, 6.0, {"spread": 0.95}, "encoder"),
        # A falling or interrupted fit has not converged; one that overfits has, and so has one that was stopped early.
        (0.5, 1.0, {"status": "falling", "gain": -2.0}, "optimizer"),
        (0.5, 1.0, {"status": "interrupted"}, "optimizer"),
        (0.5, 1.0, {"gain": -2.0, "is_validated": True}, "encoder"),
        (0.5, 1.0, {"status": "stopped early", "is_validated": True}, "encoder"),
    ],
)
def test_the_rule(approximation: float, amortization: float, options: dict[str, Any], fault: str) -> None:
    found = diagnosed(approximation, amortization, **options)
    assert found.fault == fault
    assert found.statement


def test_the_advice_depends_on_how_the_fit_ended() -> None:
    overfitted = diagnosed(0.5, 1.0, gain=-2.0, is_validated=True).statement
    assert "overfits" in overfitted
    assert "a smaller encoder" in overfitted
    assert "a larger encoder" in diagnosed(0.0, 1.0).statement
    assert "a smaller learning rate" in diagnosed(0.0, 1.0, status="falling", gain=-2.0).statement
    assert "too short to tell" in diagnosed(0.0, 1.0, status="budget", gain=math.nan).statement


def test_unreliable_observations_are_counted() -> None:
    found = diagnosed(1.0, 0.0)
    k_hat = found.gaps.proposed.k_hat.clone()
    k_hat[:3] = 0.9
    some = replace(found, gaps=replace(found.gaps, proposed=replace(found.gaps.proposed, k_hat=k_hat)))
    assert some.fault == "family"
    assert "3 of 20 observations" in some.statement
    assert some.gaps.verdicts() == {"ok": 0, "family": 17, "encoder": 0, "unreliable": 3}


@pytest.mark.parametrize(
    ("family", "observations", "fault"), [(avi.families.FullCovariance, 20, "ok"), (avi.families.Diagonal, 1, "family")]
)
def test_one_epoch_and_one_observation_are_enough(family, observations: int, fault: str) -> None:
    vi = solved(MODEL, family).fit(X, epochs=1, lr=1e-30, standardize=False, progress=False, seed=0)
    assert diagnose(vi, TEST[:observations]).fault == fault


def test_untrained_estimators_are_refused() -> None:
    with pytest.raises(NotFittedError, match="fit"):
        diagnose(solved(MODEL), TEST)
