"""The interface of scikit-learn: parameters, clones, pipelines, model selection."""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import AmortviError, NotFittedError, OptionError
from tests.exact import linear_gaussian, solved

EXACT = linear_gaussian()
X = EXACT.simulate(60, seed=0).float().numpy()
SHORT: dict[str, Any] = {"epochs": 2, "seed": 0, "progress": False}


def make_vi(**options: Any) -> avi.AmortizedVI:
    model = avi.models.VAE(nn.Linear(2, X.shape[1]), 2, "normal")
    return avi.AmortizedVI(model, avi.encoders.MLP(X.shape[1], [8]), **options)


def model_of_several_sites(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("times", 2, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("shifted", z + 1.0, event_dim=0)
        pyro.sample("x", dist.Normal(z.mean(-1, keepdim=True), 1.0), obs=x.unsqueeze(-1))


class TestParameters:
    def test_they_are_those_of_the_constructor(self) -> None:
        model, encoder = avi.models.VAE(nn.Linear(2, 3), 2, "normal"), avi.encoders.MLP(3)
        given = {
            "model": model,
            "encoder": encoder,
            "family": avi.families.Flow(),
            "plate": "data",
            "freeze_model": True,
        }
        found = avi.AmortizedVI(**given).get_params()
        assert list(found) == list(inspect.signature(avi.AmortizedVI).parameters)
        assert all(found[name] is value for name, value in given.items())
        assert found["labels"] is found["global_guide"] is None
        assert avi.AmortizedVI(**found).get_params() == found

    def test_they_can_be_changed_before_a_fit(self) -> None:
        vi, encoder = make_vi(), avi.encoders.MLP(X.shape[1], [4])
        assert vi.set_params(family="full", encoder=encoder, freeze_model=True) is vi
        assert (vi.family, vi.freeze_model) == ("full", True)
        assert vi.encoder is encoder
        vi.fit(X, **SHORT)
        assert vi.posterior(X).label == "full"
        other = make_vi(family="full", freeze_model=True)
        other.set_params(model=vi.model, encoder=clone(make_vi()).encoder)
        assert other.model is vi.model

    def test_mistakes_change_nothing(self) -> None:
        vi = make_vi()
        before = vi.get_params()
        with pytest.raises(OptionError, match=r"no parameter 'epochs': there are .*'family'.*to fit"):
            vi.set_params(epochs=3, family="full")
        with pytest.raises(AmortviError, match="family"):
            vi.set_params(family="none")
        assert vi.get_params() == before
        vi.fit(X, **SHORT)
        mean = vi.transform(X)
        with pytest.raises(OptionError, match="cannot change family of an estimator that has seen data"):
            vi.set_params(family="full", freeze_model=False)
        assert vi.set_params(family="diagonal") is vi  # as it is
        np.testing.assert_array_equal(vi.transform(X), mean)


class TestClone:
    def test_it_is_unfitted_and_independent(self) -> None:
        vi = make_vi(family="full")
        copy = clone(vi)
        assert (copy.family, copy.status, len(copy.history)) == ("full", None, 0)
        before = [parameter.clone() for parameter in (*vi.encoder.parameters(), *vi.generative.parameters())]
        copy.fit(X, **SHORT)
        after = [*vi.encoder.parameters(), *vi.generative.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not any(a is b for a in copy.encoder.parameters() for b in vi.encoder.parameters())
        np.testing.assert_array_equal(copy.transform(X), vi.fit(X, **SHORT).transform(X))

    def test_modules_that_are_shared_stay_shared(self) -> None:
        trunk = nn.Linear(3, 3)
        vi = avi.AmortizedVI(avi.models.VAE(nn.Sequential(nn.Linear(2, 3), trunk), 2, "normal"), trunk)
        copy: Any = clone(vi)
        assert copy.encoder is copy.model.decoder[1]
        assert copy.encoder is not trunk

    def test_what_was_learned_never_leaks_into_a_clone(self) -> None:
        vi = make_vi().setup(X, seed=0)
        with pytest.raises(NotFittedError):
            clone(vi).transform(X)
        vi.fit(X, **SHORT)
        with pytest.raises(OptionError, match="an estimator that was trained cannot be cloned"):
            clone(vi)


class TestTransform:
    def test_it_is_the_posterior_mean(self) -> None:
        vi = solved(EXACT)
        found = vi.transform(X.astype(np.float64))
        np.testing.assert_allclose(found, EXACT.posterior(torch.tensor(X).double()).mean, atol=1e-6)
        assert vi.get_feature_names_out().tolist() == [f"z[{i}]" for i in range(found.shape[1])]

    def test_sites_are_side_by_side_without_deterministic_ones(self) -> None:
        x = torch.randn(5, generator=torch.Generator().manual_seed(0))
        vi = avi.AmortizedVI(model_of_several_sites, avi.encoders.MLP(1, []), plate="data").setup(x, seed=0)
        found, means = pd.DataFrame(vi.transform(x), columns=vi.get_feature_names_out()), vi.posterior(x).mean
        assert found.shape == (5, 5)
        np.testing.assert_array_equal(found[[f"weights[{i}]" for i in range(3)]], means["weights"].flatten(1))
        np.testing.assert_array_equal(found[[f"z[{i}]" for i in range(2)]], means["z"].flatten(1))

    def test_before_any_data(self) -> None:
        for call in (lambda: make_vi().transform(X), make_vi().get_feature_names_out, lambda: make_vi().score(X)):
            with pytest.raises(NotFittedError):
                call()


class TestPipelines:
    def test_as_the_last_step(self) -> None:
        vi = make_vi()
        pipeline = Pipeline([("scale", StandardScaler()), ("vi", vi)])
        pipeline.fit(X, **{f"vi__{name}": value for name, value in SHORT.items()})
        check_is_fitted(pipeline)
        scaled = StandardScaler().fit_transform(X)
        np.testing.assert_array_equal(pipeline.transform(X), make_twin(vi).fit(scaled, **SHORT).transform(scaled))
        assert list(pipeline.get_feature_names_out()) == ["z[0]", "z[1]"]
        assert pipeline["vi"] is vi

    def test_as_features_of_a_classifier(self) -> None:
        y = (X[:, 0] > X[:, 0].mean()).astype(int)
        pipeline = Pipeline([("vi", make_vi()), ("classify", LogisticRegression())])
        pipeline.fit(X, y, vi__epochs=60, vi__seed=0, vi__progress=False)
        assert pipeline.score(X, y) > 0.6
        assert "AmortizedVI" in repr(pipeline)

    def test_parameters_of_a_step(self) -> None:
        pipeline = Pipeline([("vi", make_vi())]).set_params(vi__family="full")
        assert pipeline.get_params()["vi__family"] == "full"
        assert clone(pipeline)["vi"].family == "full"

    def test_labels_are_not_taken_for_an_argument(self) -> None:
        vi = make_vi()
        with pytest.raises(OptionError, match=r"y must be None.*got ndarray.*x=\(x, y\)"):
            vi.fit(X, np.zeros(60), **SHORT)
        assert vi.status is None
        assert vi.fit(X, None, **SHORT).fit(X, y=None, **SHORT) is vi


def make_twin(vi: avi.AmortizedVI) -> avi.AmortizedVI:
    """Return an estimator that starts from other parameters, then from those that ``vi`` started from."""
    torch.manual_seed(SEED)
    return make_vi()


SEED = 3


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield


@pytest.mark.filterwarnings("ignore::amortvi.errors.ConvergenceWarning")  # the fits are short
class TestModelSelection:
    def test_the_score_is_the_held_out_bound(self) -> None:
        x = EXACT.simulate(40, seed=1)
        found, evidence = solved(EXACT).score(x), EXACT.log_evidence(x).mean()
        assert found == pytest.approx(float(evidence), abs=1e-6)

    def test_cross_validation(self) -> None:
        scores = cross_val_score(make_vi(), X, cv=2, params=SHORT)
        half = make_twin(make_vi()).fit(X[30:], **SHORT).score(X[:30])
        assert scores[0] == pytest.approx(half, rel=1e-5)
        assert np.isfinite(scores).all()

    def test_grid_search(self) -> None:
        encoders = [avi.encoders.MLP(X.shape[1], [width]) for width in (1, 8)]
        search = GridSearchCV(make_vi(), {"family": ["diagonal", "full"], "encoder": encoders}, cv=2).fit(X, **SHORT)
        assert len(search.cv_results_["params"]) == 4
        assert search.best_estimator_.family == search.best_params_["family"]
        assert search.score(X) == search.best_estimator_.score(X)
        assert all(search.best_estimator_.encoder is not each for each in encoders)
