"""Losses and gradients that are not finite: the parameters of the last good epoch remain."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi.errors import TrainingDiverged
from tests.bad_input.helpers import TurnsBad, assert_same, data, decoded, estimator, fit, prior, refused, state_of


def test_the_last_good_epoch_remains() -> None:
    # Ten steps per epoch: step 25 is step 5 of epoch 3.
    vi = estimator(TurnsBad(24))
    facts = ("epoch 3, step 5", "nan", "observed site 'x' is not finite for 4 of 4", "before epoch 3", "lr")
    with refused(TrainingDiverged, *facts):
        fit(
            vi, data(), epochs=5, batch_size=4, lr=0.1, lr_schedule="constant", compile=False
        )  # the model counts its calls
    good = estimator(TurnsBad(10**9))
    expected = state_of(fit(good, data(), epochs=2, batch_size=4, lr=0.1, lr_schedule="constant", compile=False))
    assert vi.status == "interrupted"
    assert_same({**state_of(vi), "run": None}, {**expected, "run": None})
    vi.model.after = 10**9
    fit(vi, data(), epochs=3)
    assert list(vi.history.index) == [1, 2, 3, 4, 5]
    assert vi.history["elbo"].notna().all()


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_optimizer_forgets_huge_gradients(epoch: int) -> None:
    """With these in its running averages, Adam would stand still."""
    vi = estimator() if epoch == 1 else fit(estimator(), data())
    unchanged = None if epoch == 1 else vi
    with refused(TrainingDiverged, f"epoch {epoch}, step", f"before epoch {epoch}", "smaller lr", vi=unchanged):
        fit(vi, data(), epochs=20, batch_size=5, lr=1e30)
    fit(vi, data(), epochs=60, batch_size=5, lr=0.02)
    assert vi.history["elbo"].iloc[-5:].mean() > vi.history["elbo"].iloc[0] + 1


def test_the_optimizer_forgets_its_momentum() -> None:
    """With the momentum of the steps that diverged, the next step would diverge too."""

    def momentum(parameters: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    vi = fit(estimator(), data(), lr=1e-3, optimizer=momentum)
    with refused(TrainingDiverged, "epoch 2", vi=vi):
        fit(vi, data(), epochs=200, batch_size=2, lr=1e3, optimizer=momentum, gradient_clip=None)
    before = [parameter.detach().clone() for parameter in vi.guide.parameters()]
    fit(vi, data(), lr=1e-3, optimizer=momentum)
    assert all((now - old).abs().max() < 0.5 for now, old in zip(vi.guide.parameters(), before, strict=True))


def test_a_gradient_that_is_not_finite() -> None:
    class Kink(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", prior())
                # At zero the square root is finite, but its slope is infinite.
                pyro.sample("x", dist.Normal(decoded(z), 0.5 + self.scale.abs().sqrt()).to_event(1), obs=x)

    vi = estimator(Kink())
    with refused(TrainingDiverged, "epoch 1, step 1", "gradient is not finite for", "scale"):
        fit(vi, data())
    assert float(vi.model.scale.detach()) == 0
