"""The argument ``posterior``: what it changes, and that neither it nor ``x`` can be mistaken for the other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.errors import DataError, NotFittedError, OptionError
from tests.arviz_versions import groups
from tests.inference.problem import MODEL, X, make_vi

METHODS: dict[str, Callable[..., Any]] = {
    "evaluate": lambda vi, *x, **given: vi.evaluate(*x, particles=3, seed=0, **given),
    "predict": lambda vi, *x, **given: vi.predict(*x, draws=3, seed=0, **given),
    "to_arviz": lambda vi, *x, **given: vi.to_arviz(*x, draws=3, prior_draws=2, seed=0, **given),
    "refine": lambda vi, *x, **given: vi.refine(*x, max_steps=50, **given),
}
"""The methods that accept observations or a posterior."""
every_method = pytest.mark.parametrize("call", METHODS.values(), ids=METHODS.keys())

ONLY_DATA: dict[str, Callable[..., Any]] = {
    "posterior": lambda vi, x: vi.posterior(x),
    "sample_prior": lambda vi, x: vi.sample_prior(3, x, seed=0),
    "fit": lambda vi, x: vi.fit(x, epochs=1, progress=False),
    "fit, validation data": lambda vi, x: vi.fit(X, validation_data=x, epochs=1, progress=False),
    "setup": lambda vi, x: vi.setup(x),
    "evidence": lambda vi, x: avi.evidence(vi, x, draws=10),
    "annealed_evidence": lambda vi, x: avi.annealed_evidence(vi, x, temperatures=2, progress=False),
    "bracket_evidence": lambda vi, x: avi.bracket_evidence(vi, 2, x, temperatures=2),
    "calibrate": lambda vi, x: avi.calibrate(vi, 100, 20, x),
    "compare": lambda vi, x: avi.compare({"full": vi}, x),
    "diagnose": lambda vi, x: avi.diagnose(vi, x),
    "gaps": lambda vi, x: avi.gaps(vi, x),
    "latent_usage": lambda vi, x: avi.latent_usage(vi, x),
    "predictive_check": lambda vi, x: avi.predictive_check(vi, x),
    "reference": lambda vi, x: avi.reference(vi, x, draws=4, warmup=4, progress=False),
}


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return make_vi().fit(X, epochs=1, seed=0, progress=False)


@pytest.fixture(scope="module")
def refined(vi: avi.AmortizedVI) -> avi.Posterior:
    return vi.refine(X)


def assert_equal(one: Any, two: Any) -> None:
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, two)
    elif isinstance(one, avi.Posterior):
        assert torch.equal(one.mean["z"], two.mean["z"])
    elif isinstance(one, dict):
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    else:
        assert all(dataset.identical(groups(two)[name]) for name, dataset in groups(one).items())


@pytest.mark.parametrize("name", [*METHODS, *ONLY_DATA])
def test_a_posterior_is_not_data(name: str, vi: avi.AmortizedVI) -> None:
    message = "posterior=" if name in METHODS or name == "posterior" else "Posterior"
    with pytest.raises(DataError, match=message):
        (METHODS | ONLY_DATA)[name](vi, vi.posterior(X))
    assert len(vi.history) == 1


@every_method
def test_wrong_posteriors_and_observations(
    call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior
) -> None:
    same_model = [other.setup(X, seed=0).posterior(X) for other in (make_vi(), make_vi("diagonal"))]
    wrong = [
        *[((), posterior, OptionError, "posterior belongs to another AmortizedVI") for posterior in same_model],
        ((X,), same_model[0], OptionError, "posterior belongs to another AmortizedVI"),
        *[((X,), other, OptionError, "posterior must be a Posterior") for other in (X, "full", avi.Posterior)],
        ((), None, OptionError, "pass observations x, or posterior"),
        ((torch.zeros(20, 4),), refined, DataError, "x must have observations of shape"),
        *[
            ((other,), refined, DataError, "posterior is not of the observations x")
            for other in (X[:10], X.flip(0), X + 1e-3, DataLoader(TensorDataset(X[:10])))
        ],
        ((X[[3, 7, 3]],), refined.select([7, 3, 3]), DataError, "posterior is not of the observations x"),
    ]
    for x, posterior, error, message in wrong:
        with pytest.raises(error, match=message):
            call(vi, *x, posterior=posterior)
    with pytest.raises(NotFittedError, match="fit or setup"):
        call(make_vi(), X)
    with pytest.raises(OptionError, match="another AmortizedVI"):
        call(make_vi(), posterior=refined)


@every_method
def test_observations_of_a_posterior_can_be_given_or_omitted(
    call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior
) -> None:
    expected = call(vi, posterior=refined)
    for same in (X, X.numpy(), DataLoader(TensorDataset(X), batch_size=8)):
        assert_equal(call(vi, same, posterior=refined), expected)
    assert_equal(call(vi, X), call(vi, posterior=vi.posterior(X)))  # by default, that of the encoder
    selected = refined.select([7, 3, 3])
    assert_equal(call(vi, X[[7, 3, 3]], posterior=selected), call(vi, posterior=selected))


def test_a_refined_posterior_changes_the_result(vi: avi.AmortizedVI, refined: avi.Posterior) -> None:
    evidence, rows = MODEL.log_evidence(X).numpy(), [7, 3]
    assert np.abs(vi.evaluate(X, seed=0)["elbo"] - evidence).min() > 0.05
    np.testing.assert_allclose(vi.evaluate(posterior=refined, seed=0)["elbo"], evidence, atol=0.02)
    selected = vi.evaluate(X[rows], posterior=refined.select(rows), seed=0)["elbo"]
    np.testing.assert_allclose(selected, evidence[rows], atol=0.02)
    draws = [vi.predict(posterior=posterior, draws=2, seed=0)["x"] for posterior in (vi.posterior(X), refined)]
    assert not torch.equal(*draws)
    exported = [groups(vi.to_arviz(X, 2, posterior=p, seed=0))["posterior"]["z"].values for p in (None, refined)]
    assert not np.array_equal(*exported)
    again = vi.refine(posterior=refined, family="diagonal")
    assert isinstance(again.family, avi.families.Diagonal)
    torch.testing.assert_close(again.mean["z"], MODEL.posterior(X).mean, atol=0.05, rtol=0)


def test_keyword_arguments_in_another_order() -> None:
    def model(x: torch.Tensor, t: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(t, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, t = torch.linspace(-1, 1, 8), torch.linspace(0, 1, 8)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [4])).setup({"x": x, "t": t}, seed=0)
    refined = vi.refine({"x": x, "t": t})
    table = vi.evaluate({"t": t, "x": x}, posterior=refined, particles=2, seed=0)
    pd.testing.assert_frame_equal(table, vi.evaluate(posterior=refined, particles=2, seed=0))
    with pytest.raises(DataError, match="posterior is not of the observations x"):
        vi.evaluate({"x": t, "t": x}, posterior=refined)


class NoCopy(avi.encoders.MLP):
    """An encoder that cannot be copied."""

    def __deepcopy__(self, memo: object) -> None:
        raise AssertionError("the encoder was copied")


def test_the_network_is_copied_only_by_posterior() -> None:
    vi = make_vi(encoder=NoCopy(3, [4])).fit(X, epochs=1, progress=False, seed=0)
    for call in METHODS.values():
        call(vi, X)
        call(vi, posterior=vi.posterior(X, copy=False))
    vi.sample_prior(2, X)
    with pytest.raises(AssertionError, match="the encoder was copied"):
        vi.posterior(X)


def test_a_posterior_does_not_change_with_later_training() -> None:
    vi = make_vi().setup(X, seed=0)
    copied, shared, refined = vi.posterior(X), vi.posterior(X, copy=False), vi.refine(X)
    before = [posterior.mean["z"] for posterior in (copied, shared, refined)]
    vi.fit(X, epochs=2, lr=0.1, seed=0, progress=False)
    after = [posterior.mean["z"] for posterior in (copied, shared, refined)]
    assert [torch.equal(*means) for means in zip(before, after, strict=True)] == [True, False, True]
    assert not any(parameter.requires_grad for parameter in copied.network.parameters())
    assert not copied.network.training
