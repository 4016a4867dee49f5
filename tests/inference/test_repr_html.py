"""What notebooks show of estimators, posteriors, fits and diagnostics."""

from xml.etree import ElementTree

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.comparison import FamilyFits
from tests.exact import linear_gaussian

BAD = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def x() -> Tensor:
    return linear_gaussian(2, 3).simulate(40, seed=0).float()


@pytest.fixture(scope="module")
def vi(x: Tensor) -> avi.AmortizedVI:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), freeze_model=True)
    return vi.fit(x, epochs=2, seed=0, progress=False)


def shown(value: object) -> str:
    """Return the text of the representation, which is well formed and runs nothing."""
    page = value._repr_html_()  # type: ignore[attr-defined]
    assert "<script" not in page
    return " ".join(" ".join(ElementTree.fromstring(page).itertext()).split())


def test_an_estimator(vi: avi.AmortizedVI) -> None:
    text = shown(vi)
    count = sum(parameter.numel() for parameter in vi.guide.parameters())
    for part in ("family diagonal", f"status {vi.convergence}", "epochs 2", f"parameters {count:,} of", "device cpu"):
        assert part in text
    assert f"{vi.history['elbo'].iloc[-1]:.4f}".replace("-", "−") in text


def test_an_estimator_that_has_not_been_trained() -> None:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    for encoder in (avi.encoders.MLP(3, []), lazy):
        text = shown(avi.AmortizedVI(model, encoder, "full"))
        assert "status not trained" in text
        assert "ELBO —" in text


def test_a_posterior(vi: avi.AmortizedVI, x: Tensor) -> None:
    text = shown(vi.posterior(x))
    assert "family diagonal" in text
    assert "observations 40" in text
    assert "z (2,)" in text


def test_names_of_sites_are_escaped() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample(BAD, dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = torch.randn(12, 1)
    frame = pd.DataFrame(x.numpy(), index=[BAD] * 12)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(1, [])).setup(frame, seed=0)
    assert BAD in shown(vi.posterior(frame))
    assert BAD in shown(avi.calibrate(vi, 20, 10, seed=0))
    assert shown(avi.gaps(vi, frame, draws=30, simulations=0))


def test_fits_with_those_that_failed(vi: avi.AmortizedVI, x: Tensor) -> None:
    fits = avi.fit_families(vi.model, vi.encoder, ["diagonal"], x, epochs=1, freeze_model=True, progress=False)
    text = shown(FamilyFits(fits.fits, {("flow", 3): ValueError(BAD)}, [("full", 4)]))
    assert f"diagonal 0 {fits['diagonal'].status} 1" in text
    assert f"flow 3 failed: ValueError: {BAD}" in text
    assert "full 4 not fitted" in text


def test_diagnosis_and_gaps(vi: avi.AmortizedVI, x: Tensor) -> None:
    found = avi.diagnose(vi, x, draws=100, simulations=0)
    text = shown(found)
    assert f"Diagnosis: {found.fault}" in text
    assert found.statement in text
    assert f"total {found.loss.total:.3f}" in text
    mean = found.gaps.summary().loc["inference_gap"]
    assert f"inference gap {mean['mean']:.3f} ± {mean['se']:.3f}" in shown(found.gaps)


def test_a_calibration(vi: avi.AmortizedVI) -> None:
    found = avi.calibrate(vi, 100, 20, seed=0)
    text = shown(found)
    assert f"Calibration: {found.verdict}" in text
    worst = min(found.tests, key=lambda test: test.corrected)
    assert f"{worst.kind} {worst.quantity} {worst.verdict}" in text


def test_other_representations_are_unchanged(vi: avi.AmortizedVI, x: Tensor) -> None:
    assert repr(vi) == f"AmortizedVI(family='diagonal', epochs=2, status={vi.status!r})"
    assert vi.summary().startswith("diagonal: 2 epochs")
    assert repr(vi.posterior(x)) == "Posterior(Diagonal, 40 observations, z: (2,))"
