"""What `diagnose` says about models whose evidence is known, beside what is true: it may be unsure, but it must not be wrong."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import amortvi as avi
from amortvi.diagnostics.gaps import Diagnosis, Gaps, diagnose, gaps
from amortvi.training import Convergence
from amortvi.training.learning_curve import Gain
from tests.diagnostics.known_evidence import KNOWN, LINEAR, Squashed
from tests.exact import linear_gaussian, solved

TOLERANCE = 0.1
UNCLEAR = 0.15
"""Two causes that lose about the same, or a loss close to the tolerance, have no right verdict."""
CONVERGED = Convergence("converged", 100, Gain(0.0, 0.001), climb=100.0, is_validated=False)
ROWS = 60


@dataclass(frozen=True)
class Truth:
    """What is lost in truth, in nats: of one observation, or on average."""

    family: float
    encoder: float

    def allows(self, verdict: str) -> bool:
        """Whether a verdict is right."""
        total = self.family + self.encoder
        right = {"unreliable"}
        if total < TOLERANCE + UNCLEAR:
            right |= {"ok"}
        if total > TOLERANCE - UNCLEAR and self.family > self.encoder - UNCLEAR:
            right |= {"family"}
        if total > TOLERANCE - UNCLEAR and self.encoder > self.family - UNCLEAR:
            right |= {"encoder"}
        return verdict in right


def truths(found: Gaps, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Return what family and encoder lose of the known evidence, each ``(N,)``."""
    refined = found.refined[found.family].elbo
    return exact - refined, refined - found.amortized.elbo


def fitted(name: str, family: str) -> tuple[avi.AmortizedVI, Tensor]:
    """Return a short fit to a known model, and observations."""
    known = KNOWN[name]
    x = KNOWN["square" if name == "factor" else name].simulate(400, seed=1)
    # The few observations from the far tails of a prior would dominate the mean losses.
    x = x[(x.reshape(400, -1).abs() < 100).all(1)]
    vi = avi.AmortizedVI(known.model, Squashed(known.features), family, freeze_model=True)
    torch.manual_seed(0)
    vi.fit(
        x,
        epochs=40,
        lr=0.02,
        lr_schedule=lambda optimizer: CosineAnnealingLR(optimizer, 40),
        batch_size=100,
        gradient_clip=10.0,
        seed=0,
        progress=False,
    )
    return vi, x[:ROWS]


def assert_right(found: Gaps, exact: Tensor) -> None:
    """Assert that the verdict on the fit is right, and those on its observations, but for a few close to others."""
    diagnosis = Diagnosis(found, CONVERGED, frozen=True)
    family, encoder = truths(found, exact)
    reliable = found.reliable
    if reliable.any():
        assert Truth(float(family[reliable].mean()), float(encoder[reliable].mean())).allows(diagnosis.fault)
    wrong = [
        (verdict, *losses)
        for verdict, *losses in zip(found.verdict, family.tolist(), encoder.tolist(), strict=True)
        if not Truth(*losses).allows(verdict)
    ]
    assert len(wrong) <= 0.1 * len(exact), wrong
    if diagnosis.fault != "unreliable":
        # The misses of simulated observations are shared by their neighbors, so they are independent only overall.
        missed, error = found.proposed.missed, 0.0
        if missed is not None and missed.known:
            share, count = missed.fraction, int(missed.counted.sum())
            error = (share / (1 - share) / count) ** 0.5
        mean_error = float((found.evidence - exact)[reliable].mean())
        assert abs(mean_error) < 0.05 + 5 * error


CONJUGATE = ["gamma_poisson", "beta_binomial", "dirichlet"]
SINGLE_MODE = ["half_cauchy", "student", "logistic"]
SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", [*CONJUGATE, *(pytest.param(name, marks=SLOW) for name in SINGLE_MODE)])
def test_one_mode(name: str) -> None:
    """Nothing is missed, so most observations can be judged, and the evidence is exact up to a few hundredths of a nat."""
    vi, x = fitted(name, "full")
    found = gaps(vi, x)
    assert found.reliable.double().mean() > 0.8
    assert not found.proposed.missed.failed
    assert_right(found, KNOWN[name].evidence(vi, x))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("square", "full"),
        pytest.param("absolute", "diagonal", marks=SLOW),
        pytest.param("two_clusters", "diagonal", marks=SLOW),
        pytest.param("schools", "diagonal", marks=SLOW),
        pytest.param("schools", "full", marks=SLOW),
    ],
)
def test_missed_mass(name: str, family: str) -> None:
    """Weights of draws from one of two modes, or from the wide part of a funnel, look reliable and are not."""
    vi, x = fitted(name, family)
    rows = x[:20] if name in ("two_clusters", "schools") else x
    with warnings.catch_warnings(
        action="ignore", category=avi.errors.AmortviWarning
    ):  # some refinements do not converge
        found = gaps(vi, rows)
    exact = KNOWN[name].evidence(vi, rows)
    assert_right(found, exact)
    light = found.proposed.light_tailed
    without = (found.proposed.smoothed - exact)[light]
    assert without.mean() < -0.1  # without simulations, the evidence is far too low
    assert found.proposed.missed.interval[0] > 0.02
    assert not found.proposed.reliable[light][without < -0.5].double().mean() > 0.1


@pytest.mark.parametrize(
    ("family", "shift", "fault"),
    [("full", 0.0, "ok"), ("diagonal", 0.0, "family"), ("full", 1.0, "encoder"), ("diagonal", 1.5, "encoder")],
)
def test_linear_gaussian(family: str, shift: float, fault: str) -> None:
    """With the best posterior of each family, or with one that is shifted."""
    model = linear_gaussian(4, 6)
    vi = solved(model, {"full": avi.families.FullCovariance, "diagonal": avi.families.Diagonal}[family])
    with torch.no_grad():
        vi.encoder.bias[:4] += shift * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    x = model.simulate(ROWS, seed=3)
    found = gaps(vi, x)
    assert Diagnosis(found, CONVERGED, frozen=True).fault == fault
    assert_right(found, model.log_evidence(x))


@pytest.mark.parametrize(("epochs", "lr"), [(20, 3e-4), (1, 1e-5), (30, 1e-5)])
def test_an_encoder_that_was_hardly_trained(epochs: int, lr: float) -> None:
    """The encoder loses all, but before it is trained that is nobody's fault; the bound hardly rises, or in a straight line."""
    x = LINEAR.simulate(400, seed=1)
    vi = avi.AmortizedVI(LINEAR, avi.encoders.MLP(5, [16]), "full", freeze_model=True)
    vi.fit(x, epochs=epochs, lr=lr, batch_size=100, seed=0, progress=False)
    found = diagnose(vi, x[:ROWS])
    family, encoder = truths(found.gaps, LINEAR.log_evidence(x[:ROWS]))
    assert float(encoder.mean()) > 1 > float(family.mean())
    assert found.fault == "optimizer"


def test_models_that_cannot_be_simulated_are_not_vouched_for() -> None:
    vi, x = fitted("factor", "full")
    found = diagnose(vi, x)
    assert "cannot be checked" in found.statement
    assert "factor" in found.statement
    assert "cannot be checked" in str(found.gaps)
