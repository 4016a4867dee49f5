"""The fault of fits with known faults, and every branch of the rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.diagnostics.convergence import Convergence
from amortvi.diagnostics.convergence.trend import Trend
from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.gaps import Diagnosis, Gaps, diagnose
from amortvi.errors import NotFittedError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(200, seed=1)
TEST = MODEL.simulate(40, seed=2)


def decaying(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)


LONG = {"epochs": 60, "lr": 0.1, "lr_schedule": decaying}


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


def diagnosed(
    *,
    approximation: float,
    amortization: float,
    reliable: bool = True,
    state: str = "converged",
    gain: float = 0.0,
    frozen: bool = False,
    spread: float = 0.0,
) -> Diagnosis:
    """Return a diagnosis of synthetic gaps and a synthetic history."""
    count = 20
    level = torch.zeros(count, dtype=torch.float64)

    def evidence(elbo: float, k_hat: float) -> Evidence:
        return Evidence(level, level, level, level + elbo, level, level + k_hat, level + 100, draws=1000)

    variation = 1 + spread * torch.linspace(-1, 1, count, dtype=torch.float64)
    gaps = Gaps(
        family="diagonal",
        amortized=replace(evidence(0.0, 0.9), elbo=-approximation - amortization * variation),
        refined={"diagonal": evidence(-approximation, 0.5)},
        proposed=evidence(0.0, 0.3 if reliable else 0.9),
        tolerance=0.1,
    )
    slope = gain / (math.log(2) * 50)
    trend = Trend(level=-1.0, slope=slope, slope_se=0.0, window=10, epochs=50, quantile=2.0)
    convergence = Convergence(
        state=state,  # type: ignore[arg-type]  # a parameter of the test
        training=None if state == "too few epochs" else trend,
        validation=None,
        epochs=50,
        tolerance=0.1,
        overfitting=None,
        best_epoch=50,
        learning_rate=1.0,
    )
    return Diagnosis(gaps, convergence, frozen)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"approximation": 0.05, "amortization": 0.04}, "ok"),
        ({"approximation": 1.0, "amortization": 0.5}, "family"),
        ({"approximation": 0.5, "amortization": 1.0}, "encoder"),
        ({"approximation": 0.5, "amortization": 1.0, "reliable": False}, "unreliable"),
        # Still rising: by more than the family loses, by less, and with a loss within the tolerance.
        ({"approximation": 0.5, "amortization": 0.1, "state": "rising", "gain": 2.0}, "optimizer"),
        ({"approximation": 3.0, "amortization": 0.1, "state": "rising", "gain": 2.0}, "family"),
        ({"approximation": 0.0, "amortization": 0.0, "state": "rising", "gain": 2.0}, "optimizer"),
        # The fault is the family's, but not the encoder's, before the fit has converged.
        ({"approximation": 0.5, "amortization": 1.0, "state": "too few epochs"}, "optimizer"),
        ({"approximation": 1.0, "amortization": 0.5, "state": "too few epochs"}, "family"),
        # With a frozen model, training can gain no more than is lost.
        ({"approximation": 0.02, "amortization": 0.02, "state": "rising", "gain": 2.0, "frozen": True}, "ok"),
        ({"approximation": 0.2, "amortization": 1.0, "state": "rising", "gain": 9.0, "frozen": True}, "optimizer"),
        # Variation between observations does not make the mean loss less certain.
        ({"approximation": 0.0, "amortization": 6.0, "spread": 0.95}, "encoder"),
        # A falling or noisy bound has not converged; that of an encoder that overfits has.
        ({"approximation": 0.5, "amortization": 1.0, "state": "falling", "gain": -2.0}, "optimizer"),
        ({"approximation": 0.5, "amortization": 1.0, "state": "too much scatter"}, "optimizer"),
        ({"approximation": 0.5, "amortization": 1.0, "state": "overfitting", "gain": -2.0}, "encoder"),
    ],
)
def test_the_rule(options, fault) -> None:
    found = diagnosed(**options)
    assert found.fault == fault
    assert found.statement


def test_the_advice_depends_on_the_history() -> None:
    overfitted = diagnosed(approximation=0.5, amortization=1.0, state="overfitting", gain=-2.0)
    assert "overfits" in overfitted.statement
    assert "a smaller encoder" in overfitted.statement
    constant = diagnosed(approximation=0.0, amortization=1.0)
    assert "The learning rate was never lowered" in constant.statement
    noisy = diagnosed(approximation=0, amortization=1, state="too much scatter")
    assert "a smaller learning rate" in noisy.statement


def test_unreliable_observations_are_counted() -> None:
    found = diagnosed(approximation=1.0, amortization=0.0)
    k_hat = found.gaps.proposed.k_hat.clone()
    k_hat[:3] = 0.9
    some = replace(found, gaps=replace(found.gaps, proposed=replace(found.gaps.proposed, k_hat=k_hat)))
    assert some.fault == "family"
    assert "3 of 20 observations" in some.statement
    assert some.gaps.verdicts() == {"ok": 0, "family": 17, "encoder": 0, "unreliable": 3}


def test_an_exact_posterior_is_ok_after_a_single_epoch() -> None:
    vi = solved(MODEL).fit(X, epochs=1, lr=1e-30, progress=False, seed=0)
    assert diagnose(vi, TEST[:20]).fault == "ok"


def test_one_observation_is_enough() -> None:
    vi = solved(MODEL, avi.families.Diagonal).fit(X, epochs=1, lr=1e-30, progress=False, seed=0)
    assert diagnose(vi, TEST[:1]).fault == "family"


def test_untrained_estimators_are_refused() -> None:
    with pytest.raises(NotFittedError, match="fit"):
        diagnose(solved(MODEL), TEST)
