"""Options that are out of range, of `fit` and of the methods that draw."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import amortvi as avi
from amortvi.errors import OptionError
from tests.bad_input.helpers import (
    NOT_POSITIVE_INTEGERS,
    NOT_POSITIVE_NUMBERS,
    data,
    estimator,
    refused,
    refused_by_fit,
)

INTEGER = ("must be a positive integer", "got")
POSITIVE = ("must be a finite positive number", "got")
UNUSABLE = ("cannot be used on this machine",)
SEEDS = [-1, True, 1.5, "a", 2**64]

OPTIONS: list[tuple[str, Any, tuple[str, ...]]] = [
    *[(name, value, INTEGER) for name in ("epochs", "batch_size", "patience") for value in NOT_POSITIVE_INTEGERS],
    *[("lr", value, POSITIVE) for value in NOT_POSITIVE_NUMBERS],
    *[("gradient_clip", value, POSITIVE) for value in NOT_POSITIVE_NUMBERS if value is not None],
    *[("seed", value, ("must be an integer from 0", "or None", "got")) for value in SEEDS],
    *[("compile", value, ("must be", repr(value))) for value in (None, 1, "always")],
    ("device", "cuda:99", ("'cuda:99'", *UNUSABLE)),
    ("device", "gpu", ("'gpu'", *UNUSABLE, "cuda")),
    ("device", "meta", ("'meta'", *UNUSABLE)),
    ("device", object(), UNUSABLE),
    ("dtype", torch.int32, ("floating-point type", "torch.float64", "torch.int32")),
    ("dtype", "float64", ("floating-point type", "'float64'")),
    ("dtype", np.float64, ("floating-point type", "numpy.float64")),
    ("objective", "ELBO", ("must be one of", "elbo", "'ELBO'")),
    ("objective", avi.objectives.ELBO, ("must be one of", "elbo")),
    ("objective", [], ("must be one of", "[]")),
    ("optimizer", "adam", ("must be a torch.optim class", "'adam'")),
    ("optimizer", lambda parameters: None, ("optimizer(parameters, lr=0.005)",)),
    ("optimizer", lambda parameters, lr: 3, ("must return a torch.optim.Optimizer", "3")),
    ("lr_schedule", 3, ("must be 'auto', 'constant' or a callable (optimizer) -> schedule", "3")),
    ("lr_schedule", lambda optimizer: 3, ("must return a schedule", "3")),
    ("lr_schedule", torch.optim.lr_scheduler.StepLR, ("lr_schedule(optimizer)", "step_size", "lambda")),
]


@pytest.mark.parametrize(
    ("option", "value", "facts"), OPTIONS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(OPTIONS)]
)
def test_options_of_fit(option: str, value: Any, facts: tuple[str, ...], trained: avi.AmortizedVI) -> None:
    validation = {"validation_data": data()} if option == "patience" else {}
    refused_by_fit(trained, data(), OptionError, option, *facts, **{option: value}, **validation)


COUNTS: dict[str, tuple[str, Callable[[avi.AmortizedVI, Any], Any]]] = {
    "evaluate": ("particles", lambda vi, n: vi.evaluate(data(), particles=n, seed=0)),
    "predict": ("draws", lambda vi, n: vi.predict(data(), n, seed=0)),
    "sample": ("draws", lambda vi, n: vi.posterior(data()).sample(n, seed=0)),
    "sample_prior": ("n", lambda vi, n: vi.sample_prior(n, seed=0)),
    "to_arviz": ("draws", lambda vi, n: vi.to_arviz(data(), n, seed=0)),
    "objective": ("particles", lambda vi, n: avi.objectives.ELBO(n)),
}


@pytest.mark.parametrize("method", COUNTS)
@pytest.mark.parametrize("value", [*NOT_POSITIVE_INTEGERS, None], ids=repr)
def test_numbers_of_draws(method: str, value: Any, trained: avi.AmortizedVI) -> None:
    name, call = COUNTS[method]
    with refused(OptionError, f"{name} must be a positive integer", "got", vi=trained):
        call(trained, value)


RESAMPLING: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"resample": 100}, ("resample must be True or False", "100", "proposals")),
    ({"proposals": 100}, ("proposals=100", "resample=True")),
    ({"resample": True, "proposals": 2}, ("proposals must be at least", "3", "2")),
    ({"resample": True, "proposals": 0}, ("proposals must be a positive integer", "0")),
]
METHODS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    *[("sample", *each) for each in RESAMPLING],
    *[("to_arviz", {"chains": 1, **options}, facts) for options, facts in RESAMPLING],
    *[("to_arviz", {"chains": n}, ("chains", *INTEGER)) for n in (0, True, 2.0, None)],
    ("to_arviz", {"pointwise": 1}, ("pointwise must be True or False", "1")),
    ("to_arviz", {"dims": ["z"]}, ("dims must be a dict", "['z']")),
    ("to_arviz", {"dims": {"z": "factor"}}, ("dims['z'] must be a list", "'factor'")),
    ("to_arviz", {"coords": 3}, ("coords must be a dict", "3")),
    ("to_arviz", {"coords": {"data": 3}}, ("coords['data']", "3")),
    *[("to_arviz", {"prior_draws": n}, ("prior_draws must be a nonnegative integer",)) for n in (-1, True, 2.0)],
    ("refine", {"method": "newton"}, ("method must be 'lbfgs' or 'adam'", "'newton'")),
    ("refine", {"draws": 1}, ("draws must be at least 2", "1")),
    ("refine", {"draws": 0}, ("draws", *INTEGER)),
    ("refine", {"lr": 0.0}, ("lr", *POSITIVE)),
    ("refine", {"tolerance": math.nan}, ("tolerance", *POSITIVE)),
    ("refine", {"max_steps": 1.5}, ("max_steps", *INTEGER)),
    ("refine", {"seed": None}, ("seed must be a nonnegative integer", "None")),
]


@pytest.mark.parametrize(("method", "options", "facts"), METHODS, ids=lambda value: str(value))
def test_options_of_methods(
    method: str, options: dict[str, Any], facts: tuple[str, ...], trained: avi.AmortizedVI
) -> None:
    draws = {} if method == "refine" else {"draws": 3}
    owner, x = (trained.posterior(data()), ()) if method == "sample" else (trained, (data(),))
    with refused(OptionError, *facts, vi=trained):
        getattr(owner, method)(*x, **draws, **options)


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds(seed: Any, trained: avi.AmortizedVI) -> None:
    posterior, other = trained.posterior(data()), estimator()
    for call in (trained.evaluate, trained.predict, trained.to_arviz, other.setup):
        with refused(OptionError, "seed must be an integer from 0", "or None", "got", vi=trained):
            call(data(), seed=seed)
    for draw in (trained.sample_prior, posterior.sample):
        with refused(OptionError, "seed must be an integer from 0", "or None", "got", vi=trained):
            draw(2, seed=seed)
