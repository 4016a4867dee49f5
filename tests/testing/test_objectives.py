"""The conformance suite of objectives detects faults, each by the check that is named."""

import pytest
import torch
from torch import Tensor

from amortvi.objectives import Objective
from amortvi.posterior import LogWeights
from amortvi.testing import OBJECTIVE_CHECKS


class ScaledInside(Objective):
    """An importance-weighted bound with the scale of a subsampled plate inside the logarithm."""

    def bound(self, weights: LogWeights) -> Tensor:
        scale = 100 / weights.log_weight.shape[1]
        return torch.logsumexp(scale * weights.log_weight, 0) / scale


class PythonWeight(Objective):
    """A weight that is a Python number, which a recorded step keeps constant."""

    weight = 0.0

    def advance(self, epochs: float) -> None:
        self.weight = min(1.0, epochs / 10)

    def bound(self, weights: LogWeights) -> Tensor:
        return weights.log_weight.mean(0)

    def surrogate(self, weights: LogWeights, q: object) -> Tensor | None:
        return weights.reconstruction - self.weight * weights.kl


class WeightedBound(PythonWeight):
    def bound(self, weights: LogWeights) -> Tensor:
        return weights.reconstruction - self.weight * weights.kl


class ScalarSurrogate(PythonWeight):
    def surrogate(self, weights: LogWeights, q: object) -> Tensor:
        return weights.log_weight.mean()


class TooHigh(Objective):
    def bound(self, weights: LogWeights) -> Tensor:
        return weights.log_weight.amax(0)


@pytest.mark.parametrize(
    ("faulty", "name", "message"),
    [
        (ScaledInside(5), "check_batch_size", "changes the bound|depends on the batch size"),
        (PythonWeight(), "check_can_be_recorded", "differs from an eager one"),
        (WeightedBound(), "check_bound_stays_the_same", "changes during training"),
        (ScalarSurrogate(), "check_shape_and_gradient", r"surrogate has shape \(\)"),
        (TooHigh(20), "check_below_evidence", "exceeds the evidence"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_faults_are_detected(faulty: Objective, name: str, message: str) -> None:
    check = next(check for check in OBJECTIVE_CHECKS if check.__name__ == name)
    with pytest.raises(AssertionError, match=message):
        check(faulty)
