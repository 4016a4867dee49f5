"""Bounds from both sides, compared with the exact evidence of simulated observations."""

import math

import pytest
import torch
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.annealing import EvidenceBracket, bracket_evidence
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(8, 16, dtype=torch.float32)
"""Eight latents: the best diagonal posterior loses 0.9 nats."""
QUIET = {"progress": False, "seed": 0}


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return solved(MODEL, avi.families.Diagonal)


def errors(bracket: EvidenceBracket) -> tuple[Tensor, Tensor]:
    """Return the errors of both bounds, each ``(N,)``."""
    truth = MODEL.log_evidence(bracket.simulated.batch.args[0]).double()
    return bracket.lower.log_evidence - truth, bracket.upper.log_evidence - truth


def test_the_evidence_is_between_the_bounds_which_more_temperatures_narrow(vi: avi.AmortizedVI) -> None:
    gaps = []
    for start, temperatures in (("prior", 5), ("prior", 60), ("posterior", 30)):
        bracket = bracket_evidence(vi, 40, start=start, temperatures=temperatures, leapfrog_steps=2, **QUIET)
        lower, upper = errors(bracket)
        for error, sign in ((lower, 1), (upper, -1)):
            assert sign * error.mean() < 5 * error.std() / math.sqrt(len(error))
        assert bracket.mean_gap == pytest.approx(float((upper - lower).mean()))
        gaps.append(bracket.mean_gap)
    assert gaps[0] > 3 * gaps[1]
    assert gaps[2] < 0.6
    assert list(bracket.to_frame().columns) == ["lower", "lower_se", "upper", "upper_se", "gap"]
    assert "<= mean log p(x) <=" in str(bracket)
