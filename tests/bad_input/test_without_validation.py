"""Likelihoods whose values are not to be validated, and models without a likelihood to draw from."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.errors import DataError, ModelError
from tests.bad_input.helpers import FEATURES, data, decoded, estimator, fit, prior, refused

ROWS = 300


def words(rows: int = ROWS) -> Tensor:
    """Return counts whose total varies from row to row, also beyond the first batch."""
    return torch.poisson(torch.full((rows, FEATURES), 4.0), generator=torch.Generator().manual_seed(0))


def topics(**options: Any) -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            logits = decoded(pyro.sample("z", prior()))
            # The total of the distribution does not enter its density.
            pyro.sample("x", dist.Multinomial(logits=logits, **options), obs=x)

    return model


def test_a_multinomial_with_varying_totals() -> None:
    x = words()
    vi = fit(estimator(topics(validate_args=False)), x, epochs=2, batch_size=64)
    assert np.isfinite(vi.evaluate(x, particles=5, seed=0).to_numpy()).all()
    assert vi.predict(x, 2, seed=0)["x"].shape == (2, ROWS, FEATURES)
    # The density is that of each row with its own total.
    z = torch.randn(1, 5, 2)
    batch = vi.posterior(x[:5]).observations.as_batch()
    with vi.generative.inference_mode():
        found = vi.generative.log_probs(batch, {"z": z}).local["x"][0]
    expected = [
        dist.Multinomial(int(row.sum()), logits=logits).log_prob(row)
        for row, logits in zip(x[:5], decoded(z[0]), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_validated_multinomial_names_the_way_out() -> None:
    facts = ("observed site 'x' (Multinomial)", "outside it", "validate_args=False")
    with refused(DataError, *facts):
        fit(estimator(topics()), words())


@pytest.mark.parametrize("wrap", ["event", "mask", "expand"])
def test_wrappers_keep_the_choice(wrap: str) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            logits = decoded(pyro.sample("z", prior()))
            pixels = dist.Bernoulli(logits=logits, validate_args=False)
            likelihood = {
                "event": pixels.to_event(1),
                "mask": pixels.mask(x >= 0).to_event(1),
                "expand": dist.Bernoulli(logits=logits[:, :1], validate_args=False).expand(x.shape).to_event(1),
            }[wrap]
            pyro.sample("x", likelihood, obs=x)

    gray = torch.rand(ROWS, FEATURES, generator=torch.Generator().manual_seed(0))
    vi = fit(estimator(model), gray, batch_size=64)
    assert np.isfinite(vi.evaluate(gray, particles=3, seed=0).to_numpy()).all()


def test_other_sites_are_still_validated() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior())
            pyro.sample("gray", dist.Bernoulli(logits=z[:, 0], validate_args=False), obs=x[:, 0])
            pyro.sample("count", dist.Poisson(z[:, 1].exp()), obs=x[:, 1])

    good = torch.full((ROWS, FEATURES), 0.5)
    good[:, 1] = 1.0
    bad = good.clone()
    bad[250, 1] = 0.5  # beyond the first batch
    fit(estimator(model), good)
    with refused(DataError, "observed site 'count' (Poisson)", "1 of the"):
        fit(estimator(model), bad)


def with_factor(*, deterministic: bool) -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            loc = decoded(pyro.sample("z", prior()))
            if deterministic:
                pyro.deterministic("loc", loc, event_dim=1)
            pyro.factor("likelihood", -(x - loc).square().sum(-1))

    return model


def test_nothing_to_predict() -> None:
    vi = fit(estimator(with_factor(deterministic=False)), data())
    for call in (vi.predict, lambda x, seed: vi.predict(posterior=vi.refine(x), seed=seed)):
        with refused(ModelError, "nothing to predict", "'data'", "pyro.factor", "obs=x", vi=vi):
            call(data(), seed=0)
    assert set(vi.sample_prior(3, seed=0)) == {"z"}


def test_deterministic_sites_are_predicted() -> None:
    vi = fit(estimator(with_factor(deterministic=True)), data())
    assert set(vi.predict(data(), 2, seed=0)) == {"loc"}
