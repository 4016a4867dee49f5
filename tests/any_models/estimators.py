"""Estimators of the models, and their log weights."""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

import amortvi as avi
from amortvi._util.modes import evaluation_mode
from amortvi.data import Batch
from amortvi.families import draw
from amortvi.posterior import LogWeights, log_weights
from tests.any_models import CASES, Case

every_model = pytest.mark.parametrize("name", CASES)


def seeded(make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns, the same at each call; the global random state is left untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def make_vi(case: Case, family: str = "full", **options: Any) -> avi.AmortizedVI:
    """Return an estimator with the same initial parameters at each call."""
    return seeded(lambda: avi.AmortizedVI(case.make(), case.make_encoder(), family, **options))


def fit(case: Case, **options: Any) -> avi.AmortizedVI:
    """Return a new estimator after two epochs of three minibatches, the last of which is smaller."""
    options = {"epochs": 2, "batch_size": 5, "lr": 0.01, "seed": 0, "progress": False, **options}
    return make_vi(case).fit(case.x, **options)


@functools.cache
def fitted(name: str) -> avi.AmortizedVI:
    """Return the estimator of a model after `fit`, shared by all tests that do not change it."""
    return fit(CASES[name])


def weights_of(vi: avi.AmortizedVI, case: Case, draws: int, seed: int) -> LogWeights:
    """Return the log weights of draws from the posterior, in evaluation mode."""
    pyro.set_rng_seed(seed)
    with vi.generative.inference_mode(), evaluation_mode(vi.guide):
        batch = Batch(case.args, case.kwargs)
        q = vi.guide.network(batch)
        return log_weights(vi.generative, q, batch, draw(q, draws))


def parameters_of(vi: avi.AmortizedVI) -> dict[str, Tensor]:
    """Return a copy of all parameters, by name."""
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in (("model", vi.generative), ("guide", vi.guide))
        for name, value in module.named_parameters()
    }
