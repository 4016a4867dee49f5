"""Labels of which some are missing, against the exact posteriors of a linear Gaussian model."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch
from amortvi.errors import DataError, EncoderError, FamilyError, ModelError, OptionError
from amortvi.objectives import ELBO, IWAE, Objective, Renyi
from tests.labels import LOADINGS, LOCS, data, log_evidence, log_joint, model, posterior_mean

X, Y, TRUE = data(600, labelled=150)


def make_vi(family: Any = "full", **labels: Any) -> avi.AmortizedVI:
    """Return an estimator whose encoder, the identity, allows the exact posterior."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return avi.AmortizedVI(model, avi.encoders.MLP(3, []), family, labels=avi.Labels("y", **labels))


@pytest.fixture(scope="module")
def exact() -> avi.AmortizedVI:
    """The exact posterior, up to the convergence of the fit: without a classification loss, the bound alone is maximized."""
    return make_vi(weight=0.0).fit((X, Y), standardize=False, batch_size=600, epochs=1000, seed=0, progress=False)


@pytest.mark.parametrize("objective", [ELBO(50), ELBO(50, kl="sampled"), IWAE(20), Renyi(0.5, 20)], ids=repr)
def test_bound_is_the_evidence_of_each_observation_with_or_without_its_label(
    exact: avi.AmortizedVI, objective: Objective
) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        bound = objective.estimate(exact.generative, exact.guide.network, Batch((X, Y))).bound
    gap = log_evidence(X, Y) - bound
    # The posterior is exact up to the noise of the fit, which a mean over observations shows with both signs.
    assert abs(float(gap.mean())) < 0.01
    assert float(gap[:150].abs().max()) < 0.15
    assert float(gap[150:].abs().max()) < 0.15


def test_terms_of_the_estimate_add_up(exact: avi.AmortizedVI) -> None:
    for objective in (ELBO(7), ELBO(7, kl="sampled")):
        with torch.no_grad():
            estimate = objective.estimate(exact.generative, exact.guide.network, Batch((X, Y)))
        weights = estimate.weights
        torch.testing.assert_close(weights.reconstruction - weights.kl, estimate.bound, atol=1e-3, rtol=1e-4)


def test_classifier_is_the_exact_posterior_of_the_label(exact: avi.AmortizedVI) -> None:
    probs = exact.predict_proba(X)
    expected = log_joint(X).softmax(-1)
    torch.testing.assert_close(probs.sum(-1), torch.ones(600))
    assert float((probs - expected).abs().mean()) < 0.01
    assert float((probs - expected).abs().max()) < 0.1


def test_latents_given_the_label(exact: avi.AmortizedVI) -> None:
    posterior = exact.posterior((X, TRUE))
    assert float((posterior.mean["z"] - posterior_mean(X, TRUE)).abs().max()) < 0.1
    missing = exact.posterior((X, torch.full((600,), -1)))
    expected = torch.stack([posterior_mean(X, torch.full((600,), y)) for y in range(3)], dim=1)
    mean = (log_joint(X).softmax(-1).unsqueeze(-1) * expected).sum(1)
    assert float((missing.mean["z"] - mean).abs().max()) < 0.15
    # The model sums the missing label out exactly, so its evidence needs no label either.
    bounds = exact.evaluate((X, Y), particles=200, seed=0)
    assert abs(float((log_evidence(X, Y).numpy() - bounds["iwae"]).mean())) < 0.01


def test_model_probabilities_agree_with_the_classifier(exact: avi.AmortizedVI) -> None:
    rows = slice(140, 160)
    probs = exact.posterior((X, Y)).select(rows).probs["y"]
    torch.testing.assert_close(probs[:10], nn.functional.one_hot(Y[140:150], 3).float())
    assert float((probs[10:] - exact.predict_proba(X[150:160])).abs().mean()) < 0.02


def test_predictions_keep_the_labels_that_are_known(exact: avi.AmortizedVI) -> None:
    """The mean of new data is that given the label where it is known, and of its posterior elsewhere."""
    rows = slice(130, 170)
    x, y = X[rows], Y[rows]
    drawn = exact.predict((x, y), 4000, seed=0)
    known = y >= 0
    assert bool((drawn["y"][:, known] == y[known]).all())
    each = torch.stack(
        [LOCS[label] + posterior_mean(x, torch.full((40,), label)) @ LOADINGS for label in range(3)], dim=1
    )
    given = each.take_along_dim(y.clamp(min=0)[:, None, None], dim=1).squeeze(1)
    averaged = (log_joint(x).softmax(-1).unsqueeze(-1) * each).sum(1)
    expected = torch.where(known.unsqueeze(-1), given, averaged)
    # The standard deviation of new data is about 1.5, and 0.1 is what the fit allows.
    assert float((drawn["x"].mean(0) - expected).abs().max()) < 0.1 + 5 * 1.5 / 4000**0.5


def test_predictions_do_not_read_labels(exact: avi.AmortizedVI) -> None:
    without = exact.predict_proba(X)
    torch.testing.assert_close(exact.predict_proba((X, TRUE)), without)
    torch.testing.assert_close(exact.posterior((X, TRUE)).label_probs, without)
    torch.testing.assert_close(exact.predict_proba((X.numpy(),)), without)


def test_unlabelled_observations_help_the_classifier() -> None:
    """With a model that is learned, from 30 labels: few errors beyond those of the exact posterior."""

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(3))
            self.locs = nn.Parameter(torch.zeros(3, 3))
            self.loadings = nn.Parameter(0.5 * torch.eye(3)[:2])
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", x.shape[0]):
                label = pyro.sample("y", dist.Categorical(logits=self.logits), obs=y.clamp(min=0), obs_mask=y >= 0)
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                likelihood = dist.Normal(self.locs[label] + z @ self.loadings, self.log_scale.exp())
                pyro.sample("x", likelihood.to_event(1), obs=x)

    x, y, true = data(2000, labelled=30, seed=1)
    best = float((log_joint(x).argmax(-1) != true).float().mean())
    torch.manual_seed(0)
    vi = avi.AmortizedVI(Learned(), avi.encoders.MLP(3, [32]), "full", labels="y")
    vi.fit((x, y), epochs=60, seed=0, progress=False)
    wrong = float((vi.predict_proba(x).argmax(-1) != true).float().mean())
    # Over eight seeds, the difference was at most 0.015; a classifier of 30 labels alone makes 0.05 to 0.1 more errors.
    assert wrong < best + 0.03


def test_global_latents_are_as_uncertain_as_missing_labels_leave_them() -> None:
    """With 6 of 100 labels known, a proportion is known half as well as with all of them; against quadrature."""
    generator = torch.Generator().manual_seed(0)
    true = (torch.rand(100, generator=generator) < 0.3).long()
    x = true + 1.25**0.5 * torch.randn(100, generator=generator)
    y = torch.where(torch.arange(100) < 6, true, -1)

    def proportion(x: Tensor, y: Tensor) -> None:
        pi = pyro.sample("pi", dist.Beta(2.0, 2.0))
        with pyro.plate("data", x.shape[0]):
            prior = dist.Categorical(torch.stack([1 - pi, pi], -1))
            kind = pyro.sample("y", prior, obs=y.clamp(min=0), obs_mask=y >= 0)
            z = pyro.sample("z", dist.Normal(1.0 * kind, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    grid = torch.linspace(0.001, 0.999, 2001, dtype=torch.float64)
    each = torch.stack([1 - grid, grid], -1).log() + dist.Normal(torch.tensor([0.0, 1.0]), 1.25**0.5).log_prob(
        x.double()[:, None, None]
    )
    known = each.take_along_dim(y.clamp(min=0)[:, None, None], dim=-1).squeeze(-1)
    log_joint = torch.where(y[:, None] >= 0, known, each.logsumexp(-1)).sum(0) + grid.log() + (1 - grid).log()
    weights = log_joint.softmax(0)
    mean = float((weights * grid).sum())
    sd = float((weights * (grid - mean) ** 2).sum().sqrt())
    torch.manual_seed(0)
    vi = avi.AmortizedVI(proportion, avi.encoders.MLP(1, [16]), "full", labels="y")
    vi.fit((x, y), batch_size=100, epochs=800, seed=0, progress=False)
    found = vi.posterior((x, y)).sample(800, seed=0)["pi"]
    assert abs(float(found.mean()) - mean) < 0.15 * sd
    assert float(found.std()) == pytest.approx(sd, rel=0.15)  # with every label known, it would be half as large


def test_a_likelihood_of_zero_under_a_wrong_label() -> None:
    """It does not matter if the label is known."""
    torch.manual_seed(0)
    kind = torch.arange(60) % 2
    x, u = 1.25**0.5 * torch.randn(60), kind + torch.rand(60)

    def uniform(x: Tensor, u: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2), obs=y.clamp(min=0), obs_mask=y >= 0)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            pyro.sample("u", dist.Uniform(1.0 * y, 1.0 + y), obs=u)

    vi = avi.AmortizedVI(uniform, avi.encoders.MLP(2, [16]), labels="y")
    vi.fit((x, u, kind), epochs=300, seed=0, progress=False)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x).mean() + torch.tensor(0.5).log()
    assert vi.history["elbo"].iloc[-20:].mean() == pytest.approx(float(exact), abs=0.05)


def test_saved_and_loaded(exact: avi.AmortizedVI, tmp_path: Path) -> None:
    exact.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(tmp_path / "run", model, avi.encoders.MLP(3, []), labels=avi.Labels("y", weight=0.0))
    torch.testing.assert_close(loaded.predict_proba(X), exact.predict_proba(X), rtol=0, atol=0)


def test_refined_and_compared(exact: avi.AmortizedVI) -> None:
    x, y = X[140:160], Y[140:160]
    refined = exact.refine((x, y))
    assert float((refined.mean["z"] - exact.posterior((x, y)).mean["z"]).abs().max()) < 0.15
    fits = avi.fit_families(
        model,
        avi.encoders.MLP(3, [8]),
        ["diagonal", "full"],
        (X, Y),
        labels="y",
        epochs=30,
        seeds=[0, 1],
        progress=False,
    )
    assert set(avi.compare(fits, (X, Y)).index) == {"diagonal", "full"}
    assert {fit.vi.predict_proba(X).shape for fit in fits.fits} == {(600, 3)}


def test_compiled_steps_are_those_of_plain_pytorch() -> None:
    options: dict[str, Any] = {"epochs": 30, "seed": 0, "progress": False}
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
    found = []
    for compiled in (False, "auto"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for part in network.modules():
                if isinstance(part, nn.Linear):
                    part.reset_parameters()
        found.append(make_vi("diagonal", classifier=network).fit((X, Y), compile=compiled, **options).predict_proba(X))
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("labelled", [0, 600])
def test_no_label_or_every_label(labelled: int) -> None:
    x, y, true = data(600, labelled=labelled)
    vi = make_vi().fit((x, y), epochs=60, seed=0, progress=False)
    assert bool(vi.predict_proba(x).isfinite().all())
    if labelled:
        wrong = (vi.predict_proba(x).argmax(-1) != true).float().mean()
        assert float(wrong) < float((log_joint(x).argmax(-1) != true).float().mean()) + 0.05


def test_labels_by_keyword_and_from_a_loader() -> None:
    by_name = make_vi().fit({"x": X, "y": Y}, epochs=3, seed=0, progress=False)
    assert by_name.predict_proba({"x": X[:5]}).shape == (5, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=100)
    assert make_vi().fit(loader, epochs=3, seed=0, progress=False).predict_proba(X[:5]).shape == (5, 3)


def test_nan_and_whole_floating_point_labels() -> None:
    missing = torch.where(Y < 0, torch.nan, Y.double())
    found = [
        make_vi().fit((X, y), epochs=3, seed=0, progress=False).predict_proba(X)
        for y in (Y, missing, missing.numpy(), pd.Series(missing.numpy()), Y.int())
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_posteriors_of_observations_without_labels(exact: avi.AmortizedVI) -> None:
    missing = torch.full((600,), -1)
    torch.testing.assert_close(exact.posterior(X).mean["z"], exact.posterior((X, missing)).mean["z"])


def test_labels_of_a_loader_are_checked_too(exact: avi.AmortizedVI) -> None:
    wrong = Y.clone()
    wrong[500] = -4
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, wrong), batch_size=100)
    with pytest.raises(DataError, match="integers from 0 to 2, or -1 where a label is missing; got -4"):
        exact.posterior(loader).log_prob({"z": torch.zeros(600, 2)})
    with pytest.raises(DataError, match="got -4"):
        make_vi().fit((X, Y), validation_data=(X, wrong), progress=False)


def _named(name: str) -> Any:
    def other(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            label = pyro.sample(name, dist.Categorical(torch.ones(2) / 2), obs=y.clamp(min=0), obs_mask=y >= 0)
            pyro.sample("x", dist.Normal(1.0 * label, 1.0), obs=x[:, 0])

    return other


def test_site_with_another_name_than_the_argument() -> None:
    y = Y.clamp(max=1)
    labels = avi.Labels("y", site="kind")
    vi = avi.AmortizedVI(_named("kind"), avi.encoders.MLP(3, []), labels=labels).fit((X, y), epochs=2, progress=False)
    assert vi.predict_proba(X).shape == (600, 2)
    with pytest.raises(ModelError, match=r"obs_mask=y >= 0.*kind_unobserved.*site="):
        avi.AmortizedVI(_named("kind"), avi.encoders.MLP(3, []), labels="y").setup((X, y))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: avi.Labels(1), OptionError, "argument of Labels must be a name"),
        (lambda: avi.Labels("y", weight=-1.0), OptionError, "weight of Labels"),
        (lambda: avi.Labels("y", classifier="mlp"), EncoderError, "classifier of Labels must be an nn.Module"),
        (lambda: avi.AmortizedVI(model, nn.Flatten(), labels=3), OptionError, "labels must be the name"),
        (lambda: make_vi().setup(X), ModelError, r"labels='y' is not among the arguments.*\(x, y\)"),
        (lambda: make_vi().setup((X, Y + 5)), ModelError, "index 7 is out of bounds"),
        (
            lambda: make_vi().setup((X, Y - 5)),
            DataError,
            "nonnegative integers, or -1 where a label is missing; got -3",
        ),
        (
            lambda: make_vi().setup((X, Y + 0.5)),
            DataError,
            "nonnegative integers, or -1 where a label is missing; got 2.5",
        ),
        (lambda: make_vi().setup((X, nn.functional.one_hot(TRUE))), DataError, r"of shape \(N,\); got \(128, 3\)"),
        (lambda: make_vi("mixture").setup((X, Y)), FamilyError, "is a mixture"),
        (lambda: make_vi(classifier=nn.Linear(4, 2)).setup((X, Y)), EncoderError, "the classifier Linear failed"),
        (
            lambda: avi.AmortizedVI(model, avi.encoders.MLP(4)).setup((X, Y)).predict_proba((X, Y)),
            OptionError,
            "labels= to",
        ),
    ],
)
def test_mistakes_are_named(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_wrong_label_far_into_the_data_changes_nothing() -> None:
    vi = make_vi().fit((X, Y), epochs=2, seed=0, progress=False)
    before = vi.predict_proba(X)
    wrong = Y.clone()
    wrong[-1] = 7
    with pytest.raises(DataError, match=r"got 7, first at \[599\]"):
        vi.fit((X, wrong), epochs=2, progress=False)
    torch.testing.assert_close(vi.predict_proba(X), before, rtol=0, atol=0)
    with pytest.raises(DataError, match="integers from 0 to 2"):
        vi.posterior((X, wrong))


def test_each_parameter_is_stored_once(exact: avi.AmortizedVI) -> None:
    memory = [value.data_ptr() for value in exact.guide.state_dict().values() if value.numel()]
    assert len(memory) == len(set(memory))
