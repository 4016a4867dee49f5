"""The argument ``posterior``: what it changes, and that neither it nor ``x`` can be mistaken for the other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyro import distributions as dist
from pyro import plate, sample
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
}


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return make_vi().setup(X, seed=0)


@pytest.fixture(scope="module")
def trained() -> avi.AmortizedVI:
    return make_vi().fit(X, epochs=1, seed=0, progress=False)


@pytest.fixture(scope="module")
def refined(vi: avi.AmortizedVI) -> avi.Posterior:
    return vi.refine(X)


def assert_equal(one: Any, two: Any) -> None:
    """Compare the results of a method."""
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, two)
    elif isinstance(one, avi.Posterior):
        assert torch.equal(one.mean["z"], two.mean["z"])
    elif isinstance(one, dict):
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    else:
        assert all(dataset.identical(groups(two)[name]) for name, dataset in groups(one).items())


# ------------------------------------------------------------------------------ a posterior is not data


@pytest.mark.parametrize("call", [*METHODS.values(), *ONLY_DATA.values()], ids=[*METHODS, *ONLY_DATA])
def test_a_posterior_is_not_data(call: Callable[..., Any]) -> None:
    own = make_vi().setup(X, seed=0)
    with pytest.raises(DataError, match="Posterior"):
        call(own, own.posterior(X))
    assert own.history.empty


@pytest.mark.parametrize("call", [*METHODS.values(), ONLY_DATA["posterior"]], ids=[*METHODS, "posterior"])
def test_the_error_names_the_argument_to_use(call: Callable[..., Any], vi: avi.AmortizedVI) -> None:
    with pytest.raises(DataError, match="posterior="):
        call(vi, vi.posterior(X))


DIAGNOSTICS: dict[str, Callable[..., Any]] = {
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


@pytest.mark.parametrize("call", DIAGNOSTICS.values(), ids=DIAGNOSTICS.keys())
def test_diagnostics_do_not_mistake_a_posterior_for_data(call: Callable[..., Any], trained: avi.AmortizedVI) -> None:
    with pytest.raises(DataError, match="Posterior"):
        call(trained, trained.posterior(X))


# ------------------------------------------------------------------------------ which posteriors are refused


@every_method
def test_posteriors_of_other_estimators_are_refused(call: Callable[..., Any], vi: avi.AmortizedVI) -> None:
    for other in (make_vi(), make_vi("diagonal"), make_vi(freeze_model=True)):  # all with the same model
        posterior = other.setup(X, seed=0).posterior(X)
        for x in ((), (X,)):
            with pytest.raises(OptionError, match="posterior belongs to another AmortizedVI"):
                call(vi, *x, posterior=posterior)


def test_posteriors_of_other_families_are_refused() -> None:
    """The fits of `fit_families` share one frozen model."""
    fits = avi.fit_families(
        MODEL, avi.encoders.MLP(3, [4]), ["diagonal", "full"], X, freeze_model=True, epochs=1, progress=False
    )
    with pytest.raises(OptionError, match="posterior belongs to another AmortizedVI"):
        fits["full"].evaluate(X, posterior=fits["diagonal"].posterior(X))


@every_method
def test_posteriors_of_other_observations_are_refused(
    call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior
) -> None:
    for other in (X[:10], X.flip(0), X + 1e-3, DataLoader(TensorDataset(X[:10]))):
        with pytest.raises(DataError, match="posterior is not of the observations x"):
            call(vi, other, posterior=refined)


@every_method
@pytest.mark.parametrize("wrong", [X, "full", avi.Posterior, 3], ids=["tensor", "name", "class", "number"])
def test_what_is_not_a_posterior_is_refused(call: Callable[..., Any], wrong: Any, vi: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="posterior must be a Posterior"):
        call(vi, X, posterior=wrong)


@every_method
def test_x_or_posterior_is_required(call: Callable[..., Any], vi: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="pass observations x, or posterior"):
        call(vi)


@every_method
def test_observations_are_checked_beside_a_posterior(
    call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior
) -> None:
    with pytest.raises(DataError, match="x must have observations of shape"):
        call(vi, torch.zeros(20, 4), posterior=refined)


@every_method
def test_before_setup(call: Callable[..., Any], refined: avi.Posterior) -> None:
    with pytest.raises(NotFittedError, match="fit or setup"):
        call(make_vi(), X)
    with pytest.raises(OptionError, match="another AmortizedVI"):
        call(make_vi(), posterior=refined)


# ------------------------------------------------------------------------------ what a posterior changes


@every_method
def test_x_may_be_omitted(call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior) -> None:
    assert_equal(call(vi, X, posterior=refined), call(vi, posterior=refined))
    assert_equal(call(vi, X.numpy(), posterior=refined), call(vi, posterior=refined))


@every_method
def test_the_posterior_of_the_encoder_is_the_default(call: Callable[..., Any], vi: avi.AmortizedVI) -> None:
    assert_equal(call(vi, X), call(vi, posterior=vi.posterior(X)))


def test_a_refined_posterior_changes_the_result(vi: avi.AmortizedVI, refined: avi.Posterior) -> None:
    evidence = MODEL.log_evidence(X).numpy()
    before, after = vi.evaluate(X, seed=0)["elbo"], vi.evaluate(posterior=refined, seed=0)["elbo"]
    np.testing.assert_allclose(after, evidence, atol=0.02)
    assert np.abs(before - evidence).min() > 0.05
    draws = [vi.predict(posterior=posterior, draws=2, seed=0)["x"] for posterior in (vi.posterior(X), refined)]
    assert not torch.equal(*draws)
    attributes = [groups(vi.to_arviz(X, 2, posterior=p, seed=0))["posterior"]["z"].values for p in (None, refined)]
    assert not np.array_equal(*attributes)


def test_refinement_can_start_from_a_refined_posterior(vi: avi.AmortizedVI, refined: avi.Posterior) -> None:
    again = vi.refine(posterior=refined, family="diagonal")
    assert isinstance(again.family, avi.families.Diagonal)
    torch.testing.assert_close(again.mean["z"], MODEL.posterior(X).mean, atol=0.05, rtol=0)


@every_method
def test_selected_observations(call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior) -> None:
    rows = [7, 3, 3]
    selected = refined.select(rows)
    call(vi, X[rows], posterior=selected)
    call(vi, posterior=selected)
    with pytest.raises(DataError, match="posterior is not of the observations x"):
        call(vi, X, posterior=selected)
    with pytest.raises(DataError, match="posterior is not of the observations x"):
        call(vi, X[[3, 7, 3]], posterior=selected)


def test_selection_keeps_each_posterior_with_its_observation(vi: avi.AmortizedVI, refined: avi.Posterior) -> None:
    rows = [7, 3]
    torch.testing.assert_close(refined.select(rows).mean["z"], refined.mean["z"][rows])
    found = vi.evaluate(X[rows], posterior=refined.select(rows), particles=2000, seed=0)["elbo"]
    np.testing.assert_allclose(found, MODEL.log_evidence(X)[rows], atol=0.02)


@every_method
def test_observations_of_a_loader_are_compared_by_their_number(
    call: Callable[..., Any], vi: avi.AmortizedVI, refined: avi.Posterior
) -> None:
    assert_equal(call(vi, DataLoader(TensorDataset(X), batch_size=8), posterior=refined), call(vi, posterior=refined))


def test_keyword_arguments_in_another_order() -> None:
    def model(x: torch.Tensor, t: torch.Tensor) -> None:
        with plate("data", len(x)):
            z = sample("z", dist.Normal(t, 1.0))
            sample("x", dist.Normal(z, 1.0), obs=x)

    x, t = torch.linspace(-1, 1, 8), torch.linspace(0, 1, 8)

    class Both(avi.encoders.MLP):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.stack([x, t], dim=1))

    vi = avi.AmortizedVI(model, Both(2, [4])).setup({"x": x, "t": t}, seed=0)
    refined = vi.refine({"x": x, "t": t})
    table = vi.evaluate({"t": t, "x": x}, posterior=refined, particles=2, seed=0)
    pd.testing.assert_frame_equal(table, vi.evaluate(posterior=refined, particles=2, seed=0))
    with pytest.raises(DataError, match="posterior is not of the observations x"):
        vi.evaluate({"x": t, "t": x}, posterior=refined)


# ------------------------------------------------------------------------------ copies of the network


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
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert torch.equal(before[2], after[2])
    assert not any(parameter.requires_grad for parameter in copied.network.parameters())
    assert not copied.network.training
