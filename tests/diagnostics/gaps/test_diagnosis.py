"""Whose fault it is, on fits with planted faults and on every branch of the rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.diagnostics.convergence.trend import Trend
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(4, 6)
X = MODEL.simulate(300, seed=1)
TEST = MODEL.simulate(50, seed=2)


def fitted(family: str, encoder: nn.Module, epochs: int, lr: float) -> avi.AmortizedVI:
    torch.manual_seed(0)
    vi = avi.AmortizedVI(MODEL, encoder, family, freeze_model=True)
    return vi.fit(
        X,
        validation_data=TEST,
        epochs=epochs,
        batch_size=30,
        lr=lr,
        # Goes on to the exact posterior at a learning rate that stays, where the family has it.
        objective=avi.objectives.ELBO(gradient="sticking_the_landing"),
        seed=0,
        progress=False,
        dtype=torch.float64,
    )


@pytest.mark.parametrize(
    ("fault", "family", "bottleneck", "epochs", "lr"),
    [
        ("fine", "full", None, 120, 0.03),
        ("family", "diagonal", None, 120, 0.03),
        ("encoder", "full", 1, 120, 0.03),
        ("optimizer", "full", None, 20, 5e-4),
        ("optimizer", "full", None, 5, 5e-4),
    ],
)
def test_planted_faults(fault, family, bottleneck, epochs, lr) -> None:
    """A linear encoder is exact here, one that passes everything through one number cannot be."""
    layers = [nn.Linear(6, bottleneck)] if bottleneck else [nn.Identity()]
    found = avi.diagnose(fitted(family, nn.Sequential(*layers), epochs, lr), TEST, tolerance=0.1)
    assert found.fault == fault
    assert str(found).startswith(fault)
    for part in ("nats an observation are lost", "to the family", "to the encoder"):
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
) -> avi.Diagnosis:
    """A diagnosis of gaps and a history that are made up."""
    count = 20
    level = torch.zeros(count, dtype=torch.float64)

    def evidence(elbo: float, k_hat: float) -> avi.Evidence:
        return avi.Evidence(level, level, level, level + elbo, level, level + k_hat, level + 100, draws=1000)

    scatter = 1 + spread * torch.linspace(-1, 1, count, dtype=torch.float64)
    gaps = avi.Gaps(
        family="diagonal",
        amortized=replace(evidence(0.0, 0.9), elbo=-approximation - amortization * scatter),
        refined={"diagonal": evidence(-approximation, 0.5)},
        proposed=evidence(0.0, 0.3 if reliable else 0.9),
        tolerance=0.1,
    )
    slope = gain / (10 * 0.6931471805599453 * 50 / 10)
    trend = Trend(level=-1.0, slope=slope, slope_se=0.0, window=10, epochs=50, quantile=2.0)
    made = avi.diagnostics.Convergence(
        state=state,  # type: ignore[arg-type]  # a parameter of the test
        training=None if state == "too few epochs" else trend,
        validation=None,
        epochs=50,
        tolerance=0.1,
        overfitting=None,
        best_epoch=50,
        learning_rate=1.0,
    )
    return avi.Diagnosis(gaps, made, frozen)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"approximation": 0.05, "amortization": 0.04}, "fine"),
        ({"approximation": 1.0, "amortization": 0.5}, "family"),
        ({"approximation": 0.5, "amortization": 1.0}, "encoder"),
        ({"approximation": 0.5, "amortization": 1.0, "reliable": False}, "do not trust"),
        # Still rising, by more than the family loses; by less; and where what is lost is within the tolerance.
        ({"approximation": 0.5, "amortization": 0.1, "state": "rising", "gain": 2.0}, "optimizer"),
        ({"approximation": 3.0, "amortization": 0.1, "state": "rising", "gain": 2.0}, "family"),
        ({"approximation": 0.0, "amortization": 0.0, "state": "rising", "gain": 2.0}, "optimizer"),
        # An encoder is not blamed before it had its time, a family is.
        ({"approximation": 0.5, "amortization": 1.0, "state": "too few epochs"}, "optimizer"),
        ({"approximation": 1.0, "amortization": 0.5, "state": "too few epochs"}, "family"),
        # With a frozen model no more can be gained than is lost.
        ({"approximation": 0.02, "amortization": 0.02, "state": "rising", "gain": 2.0, "frozen": True}, "fine"),
        ({"approximation": 0.2, "amortization": 1.0, "state": "rising", "gain": 9.0, "frozen": True}, "optimizer"),
        # Observations that differ make the mean loss no less of one.
        ({"approximation": 0.0, "amortization": 6.0, "spread": 0.95}, "encoder"),
        # What falls or scatters has not come to rest; an encoder that overfits has.
        ({"approximation": 0.5, "amortization": 1.0, "state": "falling", "gain": -2.0}, "optimizer"),
        ({"approximation": 0.5, "amortization": 1.0, "state": "too much scatter"}, "optimizer"),
        ({"approximation": 0.5, "amortization": 1.0, "state": "overfitting", "gain": -2.0}, "encoder"),
    ],
)
def test_the_rule(options, fault) -> None:
    found = diagnosed(**options)
    assert found.fault == fault
    assert found.statement


def test_the_advice_goes_by_the_history() -> None:
    overfitted = diagnosed(approximation=0.5, amortization=1.0, state="overfitting", gain=-2.0)
    assert "overfits" in overfitted.statement
    assert "a smaller encoder" in overfitted.statement
    shaking = diagnosed(approximation=0.0, amortization=1.0)
    assert "The learning rate was never lowered" in shaking.statement
    assert "A smaller learning rate" in diagnosed(approximation=0, amortization=1, state="too much scatter").statement


def test_what_could_not_be_judged_is_counted() -> None:
    found = diagnosed(approximation=1.0, amortization=0.0)
    k_hat = found.gaps.proposed.k_hat.clone()
    k_hat[:3] = 0.9
    proposed = avi.Evidence(**{**vars(found.gaps.proposed), "k_hat": k_hat})
    some = avi.Diagnosis(avi.Gaps(**{**vars(found.gaps), "proposed": proposed}), found.convergence)
    assert some.fault == "family"
    assert "3 of 20 observations could not be judged" in some.statement
    assert some.gaps.verdicts() == {"fine": 0, "family": 17, "encoder": 0, "do not trust": 3}


def test_an_exact_posterior_that_was_never_trained_is_fine() -> None:
    assert avi.diagnose(solved(MODEL), TEST).fault == "fine"


def test_one_observation_is_enough() -> None:
    assert avi.diagnose(solved(MODEL, avi.families.Diagonal), TEST[:1]).fault == "family"
