"""An encoder that has diverged: every call gives finite numbers, or an error of amortvi, or a warning of what is not finite."""

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.diagnostics import annealed_evidence
from amortvi.errors import AmortviError, AmortviWarning, NonFiniteError
from amortvi.posterior import Posterior

ROWS = 6
X = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
VALUES = {"rate": torch.ones(ROWS), "z": torch.zeros(ROWS, 2)}
SMALL = {"draws": 30, "simulations": 20, "seed": 0}


class Sites(nn.Module):
    """A model with a positive latent, a latent vector and a deterministic site."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            total = pyro.deterministic("total", rate + z.sum(-1))
            loc = self.layer(torch.cat([total.unsqueeze(-1), z], dim=-1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


CALLS: dict[str, Callable[[avi.AmortizedVI, Posterior], Any]] = {
    "mean": lambda vi, q: q.mean,
    "std": lambda vi, q: q.std,
    "median": lambda vi, q: q.median,
    "quantiles": lambda vi, q: q.quantiles([0.1, 0.9]),
    "covariance": lambda vi, q: q.covariance,
    "correlation": lambda vi, q: q.correlation,
    "site_covariance": lambda vi, q: q.site_covariance,
    "to_frame": lambda vi, q: q.to_frame(),
    "sample": lambda vi, q: q.sample(4, seed=0),
    "resample": lambda vi, q: q.sample(4, resample=True, seed=0),
    "log_prob": lambda vi, q: q.log_prob(VALUES),
    "log_prob of draws": lambda vi, q: q.log_prob(q.sample(4, seed=0)),
    "evaluate": lambda vi, q: vi.evaluate(X, particles=4, seed=0),
    "predict": lambda vi, q: vi.predict(X, 4, seed=0),
    "to_arviz": lambda vi, q: vi.to_arviz(X, draws=4, seed=0),
    "refine": lambda vi, q: vi.refine(X, max_steps=3).to_frame(),
    "evidence": lambda vi, q: avi.evidence(vi, X, **SMALL).to_frame(),
    "annealed_evidence": lambda vi, q: annealed_evidence(
        vi, X, temperatures=2, chains=2, leapfrog_steps=1, progress=False, seed=0
    ).to_frame(),
    "gaps": lambda vi, q: avi.gaps(vi, X[:3], [], **SMALL).to_frame(),
    "calibrate": lambda vi, q: avi.calibrate(vi, 30, 10, seed=0).to_frame(),
    "latent_usage": lambda vi, q: avi.latent_usage(vi, X, points=50, seed=0).to_frame(),
    "predictive_check": lambda vi, q: avi.predictive_check(vi, X, draws=4, seed=0).to_frame(),
}
"""Each calls the public interface with an estimator and its posterior of the data."""

MAY_BE_ZERO = {"log_prob", "log_joint", "log_likelihood", "log_weight", "log_q", "elbo", "iwae", "reconstruction", "x"}
"""Logarithms of densities: minus infinity is what their definition gives where the density is zero or rounds to it."""
INFINITE_THEN = {"elbo_se", "k_hat"}
"""What is infinite by definition if such a density is zero, or if a tail is unknown."""


def numbers(result: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Iterate over the names and values of all floating-point numbers in a result."""
    if isinstance(result, pd.DataFrame):
        result = {str(column): result[column].to_numpy() for column in result}
    elif hasattr(result, "log_likelihood"):  # ArviZ
        groups = ("posterior", "log_likelihood", "sample_stats", "posterior_predictive")
        result = {group: dict(getattr(result, group).data_vars) for group in groups}
    if isinstance(result, Mapping):
        for key, value in result.items():
            yield from numbers(value, "log_likelihood" if name == "log_likelihood" else key)
    elif np.asarray(result).dtype.kind == "f":
        yield name, np.asarray(result)


def not_finite(result: Any, call: str) -> list[str]:
    """Return the names of the results that are not finite without a reason."""
    found = []
    for name, values in numbers(result, "log_prob"):
        allowed = np.isfinite(values)
        if name in MAY_BE_ZERO and call in ("evaluate", "to_arviz", "log_prob", "log_prob of draws"):
            allowed |= values == -np.inf
        if name in INFINITE_THEN:
            allowed |= np.isinf(values)
        if not allowed.all():
            found.append(name)
    return found


@functools.cache
def fitted(family: str) -> avi.AmortizedVI:
    torch.manual_seed(0)
    choice = avi.families.Structured({"z": "banded"}) if family == "a chain and a scalar" else family
    vi = avi.AmortizedVI(Sites(), avi.encoders.MLP(3, [8]), choice)
    return vi.fit(X, epochs=2, batch_size=None, seed=0, progress=False, compile=False)


def scaled(family: str, part: str, factor: float) -> avi.AmortizedVI:
    """Return a fitted estimator, with the weights of a part multiplied by a factor."""
    vi = copy.deepcopy(fitted(family))
    with torch.no_grad():
        for parameter in {"encoder": vi.encoder, "family": vi.guide.family}[part].parameters():
            parameter.mul_(factor)
    return vi


def check(vi: avi.AmortizedVI, call: str) -> None:
    """A call gives finite numbers, or says what is not finite."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = CALLS[call](vi, vi.posterior(X))
        except AmortviError:
            return
    said = any(issubclass(each.category, AmortviWarning) and "not finite" in str(each.message) for each in caught)
    foreign = [str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)]
    assert said or not not_finite(result, call)
    assert not foreign


FACTORS = [30.0, 1e3, 1e6, 1e10, 1e20]
LONG = {"annealed_evidence", "calibrate", "evidence", "gaps", "latent_usage", "refine"}
"""Calls that take seconds."""


@pytest.mark.parametrize("family", ["full", "mixture"])
@pytest.mark.parametrize("call", [call for call in CALLS if call not in LONG])
def test_large_weights(call: str, family: str) -> None:
    for factor in (1e3, 1e20):
        check(scaled(family, "family", factor), call)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "family"])
@pytest.mark.parametrize("family", [*(name for name in avi.families.NAMED if name != "banded"), "a chain and a scalar"])
@pytest.mark.parametrize("call", CALLS)
def test_large_weights_of_every_family(call: str, family: str, part: str) -> None:
    for factor in FACTORS if call not in LONG else (1e3, 1e20):
        check(scaled(family, part, factor), call)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["encoder", "family"])
@pytest.mark.parametrize("family", ["full", "mixture", "top_down"])
def test_weights_that_are_not_finite(family: str, part: str, factor: float) -> None:
    """The error names the observations."""
    vi = scaled(family, part, factor)
    for call in ("mean", "quantiles", "sample", "log_prob", "evaluate", "predict", "to_arviz", "resample"):
        with pytest.raises(
            NonFiniteError, match=rf"for {ROWS} of {ROWS} observations \(at positions 0, 1, 2, \.\.\.\)"
        ):
            CALLS[call](vi, vi.posterior(X))


def test_a_kl_that_overflows() -> None:
    """Locations of 1e20 have squares beyond single precision."""
    vi = scaled("full", "family", 1e20)
    with pytest.raises(NonFiniteError, match=rf"the KL from the posterior to the prior for {ROWS} of {ROWS}"):
        CALLS["latent_usage"](vi, vi.posterior(X))


def test_scales_that_are_lost_in_rounding() -> None:
    """Whatever the posterior claims, its draws are a point, and the truth is not at a finite distance from it."""
    vi = copy.deepcopy(fitted("full"))
    with torch.no_grad():
        vi.guide.family.to_parameters.bias.copy_(torch.tensor([0.0, *[1e3] * 2, *[-100.0] * 3, *[0.0] * 3]))
        vi.guide.family.to_parameters.weight.zero_()
    with pytest.raises(NonFiniteError, match=r"the draws of .*z\[0\].* do not vary"):
        avi.calibrate(vi, 30, 10, seed=0)


def test_a_model_that_is_not_finite() -> None:
    vi = copy.deepcopy(fitted("full"))
    with torch.no_grad():
        vi.model.layer.bias[1] = math.nan
    for call, what in (("predict", "draws of 'x'"), ("evaluate", "elbo")):
        with pytest.raises(NonFiniteError, match=rf"the {what}.* for {ROWS} of {ROWS} .*parameter of the model"):
            CALLS[call](vi, vi.posterior(X))


def test_deterministic_sites_that_overflow() -> None:
    vi = copy.deepcopy(fitted("diagonal"))
    with torch.no_grad():
        vi.guide.family.to_parameters.bias[:3] = torch.tensor([0.0, 3e38, 3e38])
        vi.guide.family.to_parameters.weight.zero_()
    with pytest.warns(AmortviWarning), pytest.raises(NonFiniteError, match=rf"the quantiles of 'total' for {ROWS} of"):
        vi.posterior(X).quantiles([0.1])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_global_posterior_that_is_not_finite(value: float) -> None:
    def model(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), "diagonal").setup(X, seed=0)
    with torch.no_grad():
        for name, parameter in vi.guide.named_parameters():
            if "loc" in name and "scale" in name:
                parameter.fill_(value)
    for call in ("mean", "median", "sample", "evaluate", "predict"):
        with pytest.raises(NonFiniteError, match=r"global latents \['scale'\]"):
            CALLS[call](vi, vi.posterior(X))
