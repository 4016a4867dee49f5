"""Everything that a user does with an estimator, for every model."""

from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

import amortvi as avi
from amortvi.training.modules import TrainedModules
from tests.any_models import CASES, ROWS
from tests.any_models.estimators import every_model, fit, fitted, make_vi, parameters_of, seeded
from tests.any_models.parameters import TutorialVAE

NO_SIMULATIONS = {"plates on both sides", "subsampled in parts", "scales", "weights", "a factor", "a factor alone"}
"""Models whose density is not that of a distribution of each observation, from which data could be drawn."""


@every_model
def test_fit_and_everything_after(name: str) -> None:
    case, store = CASES[name], pyro.get_param_store()
    store["scale"] = torch.tensor(123.0)
    vi = fit(case, validation_data=case.x)
    assert np.isfinite(vi.history.to_numpy()).all()
    posterior = vi.posterior(case.x)
    assert {site.name: tuple(site.shape) for site in posterior.latents.sites} == case.shapes

    draws, quantiles = posterior.sample(7, seed=0), posterior.quantiles([0.1, 0.5, 0.9])
    mean, std = posterior.mean, posterior.std
    for site in posterior.latents.sites:
        shape = (ROWS, *case.shapes[site.name])
        assert mean[site.name].shape == std[site.name].shape == shape
        assert draws[site.name].shape == (7, *shape)
        assert quantiles[site.name].shape == (3, *shape)
        assert site.support.check(draws[site.name]).all()
        assert (quantiles[site.name].diff(dim=0) >= 0).all()
        assert (std[site.name] >= 0).all()
    assert torch.isfinite(posterior.log_prob(draws)).all()
    assert np.isfinite(vi.evaluate(case.x, particles=3, seed=0).to_numpy()).all()

    # A factor draws no data.
    predicted = {} if name == "a factor alone" else vi.predict(case.x, 4, seed=0)
    assert not set(predicted) & set(case.shapes)
    assert all(value.shape[:2] == (4, ROWS) and torch.isfinite(value).all() for value in predicted.values())
    prior = vi.sample_prior(5, seed=0)
    assert set(prior) == set(predicted) | set(case.shapes)
    assert all(prior[site].shape == (5, *shape) for site, shape in case.shapes.items())
    assert all(prior[site].shape == (5, *value.shape[2:]) for site, value in predicted.items())

    tree = vi.to_arviz(case.x, 6, prior_draws=3, seed=0)
    for site, shape in case.shapes.items():
        assert tree["posterior"][site].shape == (4, 6, ROWS, *shape)
        assert tree["posterior"][site].dims[:3] == ("chain", "draw", "data")
        assert tree["prior"][site].shape == (1, 3, ROWS, *shape)
    weights = tree["sample_stats"]
    np.testing.assert_allclose(weights["log_weight"], weights["log_joint"] - weights["log_q"], rtol=1e-5, atol=1e-4)
    assert np.isfinite(weights["log_weight"]).all()
    assert all(density.shape == (4, 6, ROWS) for density in tree["log_likelihood"].data_vars.values())

    assert list(store.keys()) == ["scale"]
    assert float(store["scale"].detach()) == 123.0


@every_model
def test_the_same_seed_gives_the_same_fit(name: str) -> None:
    before = torch.get_rng_state()
    states = [{**vi.guide.state_dict(), **vi.generative.state_dict()} for vi in (fit(CASES[name]), fitted(name))]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    case, vi = CASES[name], fitted(name)
    vi.save(tmp_path / "run")
    loaded = avi.AmortizedVI.load(tmp_path / "run", *seeded(lambda: (case.make(), case.make_encoder())))
    tables = [each.evaluate(case.x, particles=2, seed=0) for each in (vi, loaded)]
    np.testing.assert_array_equal(*tables)


@every_model
def test_a_frozen_model_does_not_change(name: str) -> None:
    case = CASES[name]
    vi = make_vi(case, "diagonal", freeze_model=True).setup(case.x, seed=0)
    guide = parameters_of(vi)
    model = {key: value.clone() for key, value in vi.generative.state_dict().items()}
    vi.fit(case.x, epochs=2, batch_size=5, lr=0.02, seed=1, progress=False)
    assert all(torch.equal(value, model[key]) for key, value in vi.generative.state_dict().items())
    assert any(not torch.equal(value, guide[key]) for key, value in parameters_of(vi).items())


@every_model
def test_the_encoder_alone_can_be_trained_on_replicates(name: str) -> None:
    case = CASES[name]
    vi = fit(case)
    model = {key: value.clone() for key, value in vi.generative.state_dict().items()}
    epochs = len(vi.history)
    options = {"epochs": 2, "batch_size": 6, "replicates": 2, "seed": 1, "progress": False}
    if name in NO_SIMULATIONS:
        with pytest.raises(avi.errors.ModelError, match="simulat"):
            vi.fit_encoder(case.x, **options)
    else:
        vi.fit_encoder(case.x, **options)
        assert len(vi.history) == epochs + 2
        assert np.isfinite(vi.history["elbo"]).all()
    assert all(torch.equal(value, model[key]) for key, value in vi.generative.state_dict().items())


@every_model
def test_each_parameter_belongs_to_one_part(name: str) -> None:
    """Model and guide share no parameter, and every parameter is trained."""
    vi = fitted(name)
    model = {id(parameter) for parameter in vi.generative.parameters()}
    guide = {id(parameter) for parameter in vi.guide.parameters()}
    assert not model & guide
    assert {id(parameter) for parameter in vi.encoder.parameters()} <= guide
    modules = TrainedModules(vi.generative, vi.guide.network, freeze_model=False)
    assert {id(parameter) for parameter in modules.parameters} == model | guide


def test_an_encoder_that_the_model_contains_too() -> None:
    vae = TutorialVAE()
    x = CASES["the method of a module"].x
    vi = avi.AmortizedVI(vae.model, vae.encoder).fit(x, epochs=2, batch_size=5, seed=0, progress=False)
    assert vi.encoder is vae.encoder
    trained = TrainedModules(vi.generative, vi.guide.network, freeze_model=False).parameters
    assert len({id(parameter) for parameter in trained}) == len(trained)
    assert len(pyro.get_param_store()) == 0


def test_fits_do_not_affect_each_other() -> None:
    """Two models have parameters named "shift" and "scale"; trained in turns they learn the same as trained alone."""
    case = CASES["parameters of a function"]
    data = (case.args[0], 5 + 3 * case.args[0])
    alone, turns = ([make_vi(case, "diagonal") for _ in data] for _ in range(2))
    orders = [(alone, i, seed) for i in range(2) for seed in range(4)]
    orders += [(turns, i, seed) for seed in range(4) for i in range(2)]
    for fits, i, seed in orders:
        fits[i].fit(data[i], epochs=1, batch_size=5, lr=0.05, seed=seed, progress=False)
    for one, two in zip(alone, turns, strict=True):
        assert all(torch.equal(value, parameters_of(two)[key]) for key, value in parameters_of(one).items())
    shifts = [parameters_of(vi)["model.program.adopted.0"] for vi in alone]
    assert not torch.equal(*shifts)
    assert len(pyro.get_param_store()) == 0


def test_a_learned_model_can_be_used_again() -> None:
    """Another estimator that is given the model gets the parameters of the function with it."""
    case = CASES["parameters of a function"]
    first = fit(case, epochs=10, lr=0.05)
    second = avi.AmortizedVI(first.model, case.make_encoder(), freeze_model=True).setup(case.x, seed=0)
    learned = {key: value for key, value in parameters_of(first).items() if key.startswith("model")}
    assert len(learned) == 2
    assert all(torch.equal(parameters_of(second)[key], value) for key, value in learned.items())
    initial = parameters_of(make_vi(case).setup(case.x, seed=0))
    assert not any(torch.equal(initial[key], value) for key, value in learned.items())


def test_parameters_of_a_function_are_learned() -> None:
    """At the optimum, the mean of the model is that of the data."""
    case = CASES["parameters of a function"]
    x = case.args[0] + torch.tensor([4.0, -2.0, 1.0])
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)
    vi = make_vi(case).fit(x, epochs=400, lr=0.2, lr_schedule=decay, seed=0, progress=False)
    drawn = vi.sample_prior(50_000, seed=0)["x"]
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.2, rtol=0)


@every_model
def test_families_can_be_compared(name: str) -> None:
    case = CASES[name]
    model, encoder = seeded(lambda: (case.make(), case.make_encoder()))
    options = {"epochs": 1, "seeds": (0,), "progress": False}
    if name == "a network outside":
        with pytest.raises(avi.errors.ModelError, match="outer modules"):
            avi.fit_families(model, encoder, ["diagonal", "full"], case.x, **options)
        options["freeze_model"] = True
    before = {key: value.clone() for key, value in encoder.state_dict().items() if name != "lazy layers"}
    with torch.random.fork_rng():
        fits = avi.fit_families(model, encoder, ["diagonal", "full"], case.x, **options)
        table = avi.compare(fits, case.x, by="elbo", particles=3)
    assert np.isfinite(table[["elbo", "kl", "iwae"]].to_numpy()).all()
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in before.items())
