"""Advice follows the evidence at hand: the largest loss, the scale of the inputs, what other families recover."""

import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.diagnostics.gaps import diagnose
from amortvi.diagnostics.gaps.advice import Loss, charge
from amortvi.diagnostics.gaps.gradients import GradientNorms, read_gradients
from amortvi.diagnostics.gaps.inputs import InputScale, read_inputs
from tests.diagnostics.gaps.test_diagnosis import diagnosed
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(3, 5, dtype=torch.float32)
HARMFUL = InputScale(largest=168.0, typical=30.0, variation=30.0, outlying=12.0, smallest=0.0)


def inputs_of(encoder: nn.Module, x: Tensor) -> InputScale | None:
    """Return the scale of the inputs of an encoder of two features."""
    model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
    return read_inputs(avi.AmortizedVI(model, encoder, "diagonal").setup(x, seed=0).posterior(x))


def normal_rows(rows: int = 500) -> Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))


class Logarithm(nn.Module):
    """An encoder that transforms its inputs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = avi.encoders.MLP(2, [4])

    def forward(self, x: Tensor) -> Tensor:
        context: Tensor = self.mlp(x.abs().log1p())
        return context


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (normal_rows(), ""),
        (3 * normal_rows(), ""),
        (torch.rand(500, 2), ""),
        ((torch.rand(5000, 2) < 0.01).float(), ""),  # a pixel that is seldom on
        (1990 + 10 * normal_rows(), "standardize"),
        (40 * normal_rows(), "standardize"),
        (1e-3 * normal_rows(), "standardize"),
        ((2.5 * normal_rows(2000)).exp(), "torch.log1p"),
        ((2.5 * normal_rows(2000)).exp() * normal_rows(2000).sign().flip(0), "torch.asinh"),
    ],
)
def test_the_scale_of_inputs(x: Tensor, problem: str) -> None:
    found = inputs_of(avi.encoders.MLP(2, [4]), x)
    assert (problem in found.problem) if problem else found.problem == ""
    assert found.largest == pytest.approx(float(x.abs().max()))


def test_what_the_first_layer_receives_counts() -> None:
    x = (2.5 * normal_rows(2000)).exp()
    assert inputs_of(Logarithm(), x).problem == ""
    assert (
        inputs_of(nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 4)), x).problem != ""
    )  # it has not seen data
    scaled = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    assert inputs_of(scaled, x).largest == pytest.approx(float(x.max()))


def test_large_inputs_are_named_first() -> None:
    """Neither a smaller learning rate nor more data would help."""
    for status in ("converged", "falling", "budget"):
        found = replace(diagnosed(0.0, 5.0, status=status), inputs=HARMFUL)
        assert "torch.log1p" in found.statement
        assert "learning rate" not in found.statement.replace(found.convergence.reason, "")
        assert "ore data" not in found.statement.replace(found.convergence.reason, "")
    assert "torch.log1p" not in replace(diagnosed(1.0, 0.1), inputs=HARMFUL).statement  # the family is at fault
    assert "torch.log1p" not in replace(diagnosed(0.0, 0.0), inputs=HARMFUL).statement  # nothing is


def test_a_fit_to_raw_data_with_a_heavy_tail() -> None:
    def scale(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            sd = pyro.sample("sd", dist.HalfCauchy(1.0)).unsqueeze(-1)
            pyro.sample("x", dist.Normal(torch.zeros_like(x), sd).to_event(1), obs=x)

    generator = torch.Generator().manual_seed(0)
    sizes = torch.tan(math.pi / 2 * 0.96 * torch.rand(300, 1, generator=generator))
    x = sizes * torch.randn(300, 4, generator=generator)
    vi = avi.AmortizedVI(scale, avi.encoders.MLP(4, [16]), "full")
    vi.fit(x, epochs=30, lr=1e-4, standardize=False, seed=0, progress=False, gradient_clip=10.0)
    found = diagnose(vi, x, draws=200, simulations=0)
    assert found.frozen  # the model has no parameters
    assert found.fault in ("encoder", "optimizer")
    assert "encoder's inputs" in found.inputs.problem
    assert found.inputs.problem in found.statement


def test_a_gradient_that_a_few_observations_decide_is_named_after_the_inputs() -> None:
    dominated = GradientNorms(typical=2.0, largest=1e4)
    found = replace(diagnosed(0.0, 5.0), gradients=dominated)
    assert "gradient_clip=2" in found.statement
    assert "gradient_clip" not in replace(found, inputs=HARMFUL).statement
    assert "gradient_clip" not in replace(found, gradients=GradientNorms(2.0, 20.0)).statement
    assert "gradient_clip" not in replace(diagnosed(1.0, 0.1), gradients=dominated).statement  # the family is at fault


def test_the_norms_of_the_gradient() -> None:
    """One observation in 160 lies a thousand standard deviations away; its gradient is quadratic in that distance."""
    x = MODEL.simulate(160, seed=0)
    vi = avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [8]), "full", freeze_model=True).setup(x, seed=0)
    usual = read_gradients(vi.posterior(x, copy=False))
    assert usual.problem == ""
    x[3] += 1000.0
    unusual = read_gradients(vi.posterior(x, copy=False))
    assert unusual.typical == pytest.approx(usual.typical, rel=0.2)
    assert unusual.largest > 1000 * usual.largest
    assert unusual.problem != ""
    assert all(parameter.grad is None for parameter in vi.guide.parameters())
    assert read_gradients(vi.posterior(x)) is None  # a copy is not trained


@pytest.mark.parametrize(
    ("encoder", "gain", "status", "fault"),
    [
        (10.0, 0.2, "still rising", "encoder"),
        (0.3, 0.2, "still rising", "optimizer"),
        (1.0, math.nan, "budget", "optimizer"),
        (10.0, 0.0, "converged", "encoder"),
    ],
)
def test_the_largest_loss_decides(encoder: float, gain: float, status: str, fault: str) -> None:
    found = diagnosed(0.05, encoder, status=status, gain=gain)
    assert found.fault == fault
    if (gain, fault) == (0.2, "encoder"):
        assert "may gain only 0.2" in found.statement


def test_what_is_charged_adds_up() -> None:
    """What training would gain of the encoder's loss is not charged twice; a straight line is no end of training."""
    loss = Loss(family=0.5, encoder=3.0, total=3.5, standard_error=0.0, missed=0.0)
    slow = diagnosed(0.5, 3.0, status="still rising", gain=1.0).convergence
    assert charge(loss, slow, 1.0) == {"family": 0.5, "encoder": 2.0, "optimizer": 1.0}
    for climb in (2.0, 0.1):
        assert charge(loss, replace(slow, climb=climb), 1.0) == {"family": 0.5, "encoder": 0.0, "optimizer": 3.0}


def test_a_model_without_parameters_is_frozen() -> None:
    """More training cannot gain more than is lost."""

    def fixed(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(200, generator=torch.Generator().manual_seed(0))
    vi = avi.AmortizedVI(fixed, avi.encoders.MLP(1, []), "full").fit(x, epochs=25, lr=0.05, seed=0, progress=False)
    found = diagnose(vi, x[:20])
    assert found.frozen
    assert found.gain <= max(found.loss.total, 0.0)


def test_the_family_that_recovers_most_is_recommended() -> None:
    """The full covariance is exact for a Gaussian model; for a missed mode, no family that can be refined is."""
    model = linear_gaussian(4, 6)
    x = model.simulate(60, seed=1)
    vi = solved(model, avi.families.Diagonal).fit(x, epochs=1, lr=1e-30, standardize=False, progress=False, seed=0)
    assert "the family 'full' recovers" in diagnose(vi, x).statement
    full = diagnosed(1.0, 0.1).statement
    assert "'flow'" in full
    assert "extra `flows`" in full
    assert "expressive family than" not in full
