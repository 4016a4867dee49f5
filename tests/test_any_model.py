"""Models as people write them: fitted, studied, and used in plain Pyro; what comes out is compared with Pyro's own answers."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

import amortvi as avi
from amortvi._util.modes import evaluation_mode
from amortvi.objectives import LogWeights, log_weights
from amortvi.data import Batch
from amortvi.model.scoring import score
from tests import any_models
from tests.any_models import CASES, ROWS, Case

DRAWS = 100
every_model = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def empty_param_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def fitted(case: Case, **options: Any) -> avi.AmortizedVI:
    """After two epochs in three batches, the last of them smaller."""
    vi = seeded(lambda: avi.AmortizedVI(case.make(), case.make_encoder(), options.pop("family", "full")))
    return vi.fit(case.x, **{"epochs": 2, "batch_size": 5, "lr": 0.01, "seed": 0, "progress": False, **options})


def weights_of(vi: avi.AmortizedVI, case: Case, draws: int, seed: int) -> LogWeights:
    pyro.set_rng_seed(seed)
    with torch.no_grad():
        posterior = vi.guide.get_posterior(*case.args, **case.kwargs)
        batch = Batch(case.args, case.kwargs)
        return log_weights(vi._generative, vi.guide.prototype, posterior, batch, draws)


def in_observation_layout(vi: avi.AmortizedVI, trace: Any) -> dict[str, Tensor]:
    return {site.name: site.layout.to_observations(trace.nodes[site.name]["value"]) for site in vi.guide.latents.sites}


# ---------------------------------------------------------------------------------------------------- the whole of it


@every_model
def test_fit_and_everything_after(case: Case) -> None:
    store = pyro.get_param_store()
    store["scale"] = torch.tensor(123.0)
    vi = fitted(case, validation_data=case.x)
    assert np.isfinite(vi.history.to_numpy()).all()
    posterior = vi.posterior(case.x)
    assert {site.name: tuple(site.shape) for site in posterior.latents.sites} == case.shapes

    draws = posterior.sample(7, seed=0)
    quantiles = posterior.quantiles([0.1, 0.5, 0.9])
    for site in posterior.latents.sites:
        shape = (ROWS, *case.shapes[site.name])
        assert posterior.mean[site.name].shape == posterior.std[site.name].shape == shape
        assert draws[site.name].shape == (7, *shape)
        assert quantiles[site.name].shape == (3, *shape)
        assert site.support.check(draws[site.name]).all()
        assert (quantiles[site.name].diff(dim=0) >= 0).all()
        assert (posterior.std[site.name] >= 0).all()
    assert torch.isfinite(posterior.log_prob(draws)).all()
    assert posterior.log_prob(draws).shape == (7, ROWS)

    table = vi.evaluate(case.x, particles=3, seed=0)
    assert np.isfinite(table.to_numpy()).all()
    assert len(table) == ROWS

    predicted = vi.predict(case.x, 4, seed=0)
    assert not set(predicted) & set(case.shapes)
    assert all(value.shape[:2] == (4, ROWS) and torch.isfinite(value).all() for value in predicted.values())
    prior = vi.sample_prior(5, seed=0)
    assert set(prior) == set(predicted) | set(case.shapes)
    assert all(prior[name].shape == (5, *shape) for name, shape in case.shapes.items())
    assert all(prior[name].shape == (5, *value.shape[2:]) for name, value in predicted.items())

    tree = vi.to_arviz(case.x, 6, prior_draws=3, seed=0)
    for name, shape in case.shapes.items():
        assert tree["posterior"][name].shape == (1, 6, ROWS, *shape)
        assert tree["posterior"][name].dims[:3] == ("chain", "draw", "data")
        assert tree["prior"][name].shape == (1, 3, ROWS, *shape)
    weights = tree["sample_stats"]
    np.testing.assert_allclose(weights["log_weight"], weights["log_joint"] - weights["log_q"], rtol=1e-5, atol=1e-4)
    assert np.isfinite(weights["log_weight"]).all()
    likelihood = sum(tree["log_likelihood"][name] for name in tree["log_likelihood"].data_vars)
    assert likelihood.shape == (1, 6, ROWS)

    assert list(store.keys()) == ["scale"]
    assert float(store["scale"].detach()) == 123.0


@every_model
def test_the_same_seed_gives_the_same_fit(case: Case) -> None:
    before = torch.get_rng_state()
    one, other = fitted(case), fitted(case)
    states = [{**vi.guide.state_dict(), **vi._generative.state_dict()} for vi in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert torch.equal(torch.get_rng_state(), before)


# -------------------------------------------------------------------------------------------------- against Pyro's ELBO


@every_model
def test_per_observation_elbos_sum_to_pyros(case: Case) -> None:
    """From the same noise, to rounding: the sum over observations, times the scale of the plate, and the global terms."""
    vi = fitted(case)
    with evaluation_mode(vi._generative, vi.guide), vi._generative.own_parameters():
        weights = weights_of(vi, case, 1, seed=3)
        expected = case.scale * float(weights.log_weight.sum()) + float(weights.global_log_prob)
        pyro.set_rng_seed(3)
        loss = Trace_ELBO().loss(vi._generative, vi.guide, *case.args, **case.kwargs)
    assert -loss == pytest.approx(expected, rel=1e-5, abs=1e-3)


@every_model
def test_vectorized_particles_sum_to_pyros(case: Case) -> None:
    if not case.particles:
        pytest.skip("the model takes no dimension in front of the batch, in plain Pyro")
    vi = fitted(case)
    with vi._generative.own_parameters():
        weights = weights_of(vi, case, 4, seed=3)
        expected = case.scale * float(weights.log_weight.mean(0).sum()) + float(weights.global_log_prob)
        pyro.set_rng_seed(3)
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=case.nesting)
        loss = elbo.loss(vi._generative, vi.guide, *case.args, **case.kwargs)
    assert -loss == pytest.approx(expected, rel=1e-5, abs=1e-3)


@every_model
def test_mean_field_elbo_is_the_same(case: Case) -> None:
    """The point masses of the guide know their KL, so Pyro's analytic ELBO is its sampled one."""
    if case is CASES["scales"]:
        pytest.skip("Pyro scales an analytic KL as the guide does, not as the model")
    vi = fitted(case)
    losses = []
    with evaluation_mode(vi._generative, vi.guide), vi._generative.own_parameters():
        for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
            pyro.set_rng_seed(3)
            losses.append(elbo.loss(vi._generative, vi.guide, *case.args, **case.kwargs))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5, abs=1e-3)


@every_model
def test_density_of_the_guide_is_that_of_the_posterior(case: Case) -> None:
    """Layout, supports and Jacobians: a trace of the guide has the log density that the posterior gives its values."""
    vi = fitted(case)
    with evaluation_mode(vi.guide), torch.no_grad():
        pyro.set_rng_seed(1)
        trace = poutine.trace(vi.guide).get_trace(*case.args, **case.kwargs)
        density = float(trace.log_prob_sum())
    found = vi.posterior(case.x).log_prob(in_observation_layout(vi, trace))
    assert found.shape == (ROWS,)
    assert case.scale * float(found.sum()) == pytest.approx(density, rel=1e-4, abs=1e-3)


@every_model
def test_scores_of_the_export_are_pyros(case: Case) -> None:
    """The log joint that ArviZ gets, for each draw, is what Pyro says of the model at these values."""
    vi = fitted(case)
    tree = vi.to_arviz(case.x, 2, prior_draws=0, posterior_predictive=False, seed=0)
    drawn = {name: torch.from_numpy(tree["posterior"][name].values[0, 1]) for name in case.shapes}
    model_layout = {site.name: site.layout.to_model(drawn[site.name]) for site in vi.guide.latents.sites}
    with evaluation_mode(vi._generative), torch.no_grad(), vi._generative.own_parameters():
        conditioned = poutine.condition(vi._generative, data=model_layout)
        trace = poutine.trace(conditioned).get_trace(*case.args, **case.kwargs)
        joint = float(trace.log_prob_sum())
        outside = float(weights_of(vi, case, 1, seed=0).global_log_prob)
    exported = case.scale * float(tree["sample_stats"]["log_joint"].values[0, 1].sum()) + outside
    assert exported == pytest.approx(joint, rel=1e-4, abs=1e-3)


def test_observed_data_come_back_row_by_row() -> None:
    for name in ("a plate on the right", "a plate on the left", "two observed sites", "a chain", "convolutions"):
        case = CASES[name]
        observed = fitted(case).to_arviz(case.x, 2, prior_draws=0, posterior_predictive=False, seed=0)["observed_data"]
        if name == "a chain":
            columns = np.stack([observed[f"x_{t}"] for t in range(3)], axis=1)
            np.testing.assert_array_equal(columns, case.args[0])
        else:
            np.testing.assert_array_equal(observed["x"], case.args[0])


# --------------------------------------------------------------------------------------------------------- in plain Pyro


@every_model
@pytest.mark.parametrize("objective", ["sampled", "mean field", "vectorized"])
def test_guide_of_a_plain_svi(case: Case, objective: str) -> None:
    if objective == "vectorized" and not case.particles:
        pytest.skip("the model takes no dimension in front of the batch, in plain Pyro")
    elbos = {
        "sampled": Trace_ELBO(),
        "mean field": TraceMeanField_ELBO(),
        "vectorized": Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=case.nesting),
    }
    model, encoder = seeded(lambda: (case.make(), case.make_encoder()))
    guide = avi.AmortizedGuide(model, encoder, "diagonal")
    pyro.set_rng_seed(0)
    guide.setup(*case.args, **case.kwargs)
    before = {name: value.detach().clone() for name, value in guide.named_parameters()}
    svi = SVI(model, guide, Adam({"lr": 0.02}), loss=elbos[objective])
    losses = [svi.step(*case.args, **case.kwargs) for _ in range(12)]
    assert np.isfinite(losses).all()
    moved = [name for name, value in guide.named_parameters() if not torch.equal(value, before[name])]
    # Every parameter of the guide is trained; a bias in front of a normalisation has no gradient but rounding.
    assert len(moved) >= len(before) - 1
    names = list(pyro.get_param_store().keys())
    assert not [name for name in names if "encoder" in name or "family" in name]


def test_plain_svi_learns_what_fit_learns() -> None:
    """One latent, linear, exact posterior known: N(0.8 x, 0.2) for x | z ~ N(z, 0.25)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.linspace(-2, 2, 50)
    guide = avi.AmortizedGuide(model, avi.encoders.MLP(1, []))
    pyro.set_rng_seed(0)
    svi = SVI(
        model, guide, Adam({"lr": 0.05}), Trace_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1)
    )
    for _ in range(300):
        svi.step(x)
    posterior = guide.get_posterior(x)
    # The gradient noise at the end of Adam moves the parameters by about lr / 10.
    torch.testing.assert_close(posterior.mean[:, 0], 0.8 * x, atol=0.03, rtol=0)
    torch.testing.assert_close(posterior.variance[:, 0].sqrt(), torch.full((50,), math.sqrt(0.2)), atol=0.03, rtol=0)


@every_model
@pytest.mark.parametrize("parallel", [False, True])
def test_guide_of_predictive(case: Case, parallel: bool) -> None:
    if parallel and (not case.particles or case.nesting > 1):
        pytest.skip("Pyro's parallel Predictive needs a model that takes a dimension in front of the batch")
    vi = fitted(case)
    sites = [site.name for site in vi.guide.latents.sites]
    with evaluation_mode(vi._generative, vi.guide), vi._generative.own_parameters():
        pyro.set_rng_seed(0)
        predictive = Predictive(
            vi._generative, guide=vi.guide, num_samples=DRAWS, return_sites=sites, parallel=parallel
        )
        drawn = predictive(*case.args, **case.kwargs)
    own = vi.posterior(case.x).sample(DRAWS, seed=1)
    for site in vi.guide.latents.sites:
        event = site.layout.event_dim
        rows = [site.layout.to_observations(value) for value in drawn[site.name]]
        values = torch.stack(rows).reshape(DRAWS, ROWS, *site.shape)
        assert values.shape == own[site.name].shape, event
        # The same distribution: means of some draws each, at most six standard errors apart.
        spread = ((values.var(0) + own[site.name].var(0)) / DRAWS).sqrt()
        assert ((values.mean(0) - own[site.name].mean(0)).abs() <= 6 * spread + 1e-6).all()


# ------------------------------------------------------------------------------------------------- plates and subsampling


def test_subsampled_and_whole_plates_have_the_same_elbos() -> None:
    whole = Case(lambda: any_models.not_subsampled, CASES["a subsampled plate"].args)
    part = CASES["a subsampled plate"]
    one, other = fitted(whole), fitted(part)
    # Trained on the same batches, they have become the same: the scale of a subsample changes no step.
    for name, value in one.guide.state_dict().items():
        torch.testing.assert_close(value, other.guide.state_dict()[name], rtol=1e-5, atol=1e-6)
    other.guide.load_state_dict(one.guide.state_dict())
    for draws in (1, 5):  # five draws of twelve are more than the thirty that the plate declares
        mine, theirs = (weights_of(vi, case, draws, seed=2) for vi, case in ((one, whole), (other, part)))
        torch.testing.assert_close(mine.log_weight, theirs.log_weight, rtol=1e-6, atol=1e-6)
    tables = [vi.evaluate(part.x, particles=5, seed=0) for vi in (one, other)]
    np.testing.assert_allclose(tables[0], tables[1], rtol=1e-6, atol=1e-6)
    assert other.guide.prototype.standard_normal_prior


@pytest.mark.parametrize("size", [1000, 7777, 10**6 + 3])
def test_a_subsample_of_any_size_has_a_closed_form_kl(size: int) -> None:
    """The scale of the plate comes back as one only to rounding."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", size, subsample=x):
            z = pyro.sample("z", any_models.standard())
            pyro.sample("x", dist.Normal(any_models.padded(z), 0.5).to_event(1), obs=x)

    for rows in (3, 7, 11):
        guide = avi.AmortizedGuide(model, avi.encoders.MLP(3, [4])).setup(any_models.real()[:rows])
        assert guide.prototype.standard_normal_prior


def test_predictions_are_laid_out_row_by_row() -> None:
    """The mean of what is predicted follows the posterior of that row and part, wherever the plates stand."""
    draws = 3000
    expected: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
        "a plate on the right": lambda mean: mean["level"][:, None] + mean["rate"],
        "a plate on the left": lambda mean: mean["z"].sum(-1),
        "plates on both sides": lambda mean: mean["z"][:, None] + mean["w"],
    }
    for name, formula in expected.items():
        case = CASES[name]
        vi = fitted(case, epochs=20)
        x = vi.predict(case.x, draws, seed=0)["x"]
        error = x.std(0) / draws**0.5
        # 12 x 6 comparisons: five standard errors are exceeded once in 20,000 runs.
        assert ((x.mean(0) - formula(vi.posterior(case.x).mean)).abs() < 5 * error).all(), name


def test_a_mask_leaves_observations_out() -> None:
    """Values under the mask may be anything; what is not seen keeps the prior."""
    x, seen = any_models.real(), any_models.real() > 0
    seen[4] = False
    changed = torch.where(seen, x, torch.tensor(777.0))

    class OnlySeen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor, seen: Tensor) -> Tensor:
            return self.layer(torch.cat([torch.where(seen, x, torch.zeros(())), seen.float()], dim=1))

    vi = seeded(lambda: avi.AmortizedVI(any_models.masked, OnlySeen()))
    vi.fit((x, seen), epochs=1, seed=0, progress=False)
    np.testing.assert_array_equal(
        vi.evaluate((x, seen), particles=20, seed=0), vi.evaluate((changed, seen), particles=20, seed=0)
    )
    likelihood = weights_of(vi, Case(lambda: any_models.masked, (x, seen)), 3, seed=0).log_likelihoods["x"]
    assert torch.equal((likelihood == 0).all(0), ~seen.any(1))


def test_weights_multiply_each_observation() -> None:
    case = CASES["weights"]
    vi = fitted(case)
    one = weights_of(vi, case, 3, seed=0)
    with torch.no_grad(), vi._generative.own_parameters():
        pyro.set_rng_seed(0)
        values, _ = vi.guide.latents.constrain(vi.guide.get_posterior(*case.args).rsample((3,)))
        unweighted = Batch((case.args[0], torch.zeros_like(case.args[1])))
        flat = score(vi._generative, vi.guide.prototype, unweighted, values)
    torch.testing.assert_close(one.log_likelihoods["x"], flat.local["x"] * case.args[1].exp()[:, 0])
    torch.testing.assert_close(one.log_priors["z"], flat.local["z"])


# ------------------------------------------------------------------------------------------------------------ closed form


def test_where_the_prior_is_known_to_be_standard_normal() -> None:
    standard = {
        "parameters of a function",
        "a network outside",
        "a module",
        "a PyroModule",
        "the method of a module",
        "a prior on a parameter",
        "no event dimension",
        "two event dimensions",
        "a loop inside",
        "a subsampled plate",
        "a mask",
        "weights",
        "a factor",
        "a factor alone",
        "deterministic sites",
        "two observed sites",
        "a mixture",
        "normalisation and dropout",
        "lazy layers",
        "convolutions",
        "an encoder that holds a PyroModule",
        "an encoder that is a PyroModule",
    }
    found = {name for name, case in CASES.items() if fitted(case, epochs=1).guide.prototype.standard_normal_prior}
    assert found == standard


def test_a_prior_that_is_standard_on_the_example_only() -> None:
    """A covariate that is zero in all the first rows: the KL must not be taken for that to N(0, I)."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(y, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(any_models.padded(z), 0.5).to_event(1), obs=x)

    x, y = any_models.real(), torch.zeros(ROWS, 2)
    vi = seeded(lambda: avi.AmortizedVI(model, avi.encoders.MLP(5, [6]))).fit((x, y), epochs=1, seed=0, progress=False)
    shifted = torch.full((ROWS, 2), 3.0)
    posterior = vi.posterior((x, shifted))
    q = dist.Normal(posterior.mean["z"], posterior.std["z"])
    exact = torch.distributions.kl_divergence(q, dist.Normal(shifted, 1.0)).sum(-1)
    table = vi.evaluate((x, shifted), particles=4000, seed=0)
    # The sampled KL has a standard error of about sqrt(dim) * |shift| * std / sqrt(4000), below 0.1 here.
    np.testing.assert_allclose(table["kl"], exact, atol=0.5)


def test_closed_form_and_sampled_kl_agree() -> None:
    case = CASES["parameters of a function"]
    vi = fitted(case, epochs=10)
    draws = 5000
    weights = weights_of(vi, case, draws, seed=0)
    exact = torch.tensor(vi.evaluate(case.x, particles=2, seed=0)["kl"].to_numpy())
    error = weights.log_ratio.std(0) / draws**0.5
    assert ((weights.log_ratio.mean(0) - exact).abs() < 5 * error).all()


# -------------------------------------------------------------------------------------------------------------- isolation


def parameters_of(vi: avi.AmortizedVI) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in (("model", vi._generative), ("guide", vi.guide))
        for name, value in module.named_parameters()
    }


def test_two_fits_in_one_process_never_touch() -> None:
    """Both models call their parameters "shift" and "scale"; step by step in turns they learn what they learn alone."""

    def make(data: Tensor) -> tuple[avi.AmortizedVI, Tensor]:
        return seeded(lambda: avi.AmortizedVI(any_models.with_params, avi.encoders.MLP(3, [6]))), data

    def step(pair: tuple[avi.AmortizedVI, Tensor], seed: int) -> None:
        pair[0].fit(pair[1], epochs=1, batch_size=5, lr=0.05, seed=seed, progress=False)

    data = (any_models.real(), 5 + 3 * any_models.real())
    alone = [make(x) for x in data]
    for pair in alone:
        for seed in range(4):
            step(pair, seed)
    turns = [make(x) for x in data]
    for seed in range(4):
        for pair in turns:
            step(pair, seed)
    for (one, _), (other, _) in zip(alone, turns, strict=True):
        mine, theirs = parameters_of(one), parameters_of(other)
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    scales = [parameters_of(vi)["model.adopted.0"] for vi, _ in turns]
    assert not torch.equal(*scales)
    assert len(pyro.get_param_store()) == 0


@every_model
def test_a_frozen_model_stays_and_the_encoder_learns(case: Case) -> None:
    vi = seeded(lambda: avi.AmortizedVI(case.make(), case.make_encoder(), freeze_model=True))
    vi.fit(case.x, epochs=1, seed=0, progress=False)
    before = parameters_of(vi)
    buffers = {name: value.clone() for name, value in vi._generative.named_buffers()}
    vi.fit(case.x, epochs=2, batch_size=5, lr=0.02, seed=1, progress=False)
    after = parameters_of(vi)
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith("model."))
    assert all(torch.equal(value, buffers[name]) for name, value in vi._generative.named_buffers())
    moved = [
        name for name, value in before.items() if name.startswith("guide.") and not torch.equal(value, after[name])
    ]
    assert moved


@every_model
def test_parameters_belong_to_one_part(case: Case) -> None:
    """What the model owns and what the guide owns; no network is in both, and none is missing."""
    vi = fitted(case)
    model = {id(parameter) for parameter in vi._generative.parameters()}
    guide = {id(parameter) for parameter in vi.guide.parameters()}
    assert not model & guide
    assert {id(parameter) for parameter in vi.encoder.parameters()} <= guide
    assert vi._trainer.parameters()
    assert {id(parameter) for parameter in vi._trainer.parameters()} == model | guide


def test_an_encoder_that_the_model_holds_too() -> None:
    vae = any_models.TutorialVAE()
    vi = avi.AmortizedVI(vae.model, vae.encoder)
    vi.fit(any_models.real(), epochs=2, batch_size=5, seed=0, progress=False)
    assert vi.encoder is vae.encoder
    trained = vi._trainer.parameters()
    assert len({id(parameter) for parameter in trained}) == len(trained)
    assert len(pyro.get_param_store()) == 0


@every_model
def test_families_beside_one_another(case: Case) -> None:
    model, encoder = seeded(lambda: (case.make(), case.make_encoder()))
    options = {"epochs": 1, "seeds": (0,), "progress": False}
    if case is CASES["a network outside"]:
        with pytest.raises(avi.errors.ModelError, match="registers modules from outside"):
            avi.fit_families(model, encoder, ["diagonal", "full"], case.x, **options)
        options["freeze_model"] = True
    before = copy.deepcopy(encoder.state_dict())
    with torch.random.fork_rng():
        fits = avi.fit_families(model, encoder, ["diagonal", "full"], case.x, **options)
        table = avi.compare(fits, case.x, particles=3)
    assert np.isfinite(table[["elbo", "kl", "iwae"]].to_numpy()).all()
    after = encoder.state_dict()
    lazy = case is CASES["lazy layers"]
    assert lazy or all(torch.equal(value, after[name]) for name, value in before.items())


@every_model
def test_saved_and_loaded(case: Case, tmp_path: Any) -> None:
    vi = fitted(case)
    vi.save(tmp_path)
    other = avi.AmortizedVI.load(tmp_path, *seeded(lambda: (case.make(), case.make_encoder())))
    for name, value in vi.posterior(case.x).sample(2, seed=0).items():
        assert torch.equal(other.posterior(case.x).sample(2, seed=0)[name], value)
    np.testing.assert_array_equal(vi.evaluate(case.x, particles=2, seed=0), other.evaluate(case.x, particles=2, seed=0))


# ---------------------------------------------------------------------------------------------------------------- details


@pytest.mark.parametrize(
    "name", ["convolutions", "normalisation and dropout", "plates on both sides", "two event dimensions"]
)
def test_several_particles(name: str) -> None:
    case = CASES[name]
    vi = fitted(case, objective=avi.objectives.ELBO(particles=3))
    assert np.isfinite(vi.history["elbo"]).all()
    # The draws of one observation are copies of it in the batch: with dropout off, one draw at a time is the same.
    weights = weights_of_quiet(vi, case, 3)
    assert weights.log_weight.shape == (3, ROWS)
    assert (weights.log_weight[0] != weights.log_weight[1]).all()


def weights_of_quiet(vi: avi.AmortizedVI, case: Case, draws: int) -> LogWeights:
    with evaluation_mode(vi._generative, vi.guide):
        return weights_of(vi, case, draws, seed=0)


def test_dropout_is_off_and_running_statistics_stay_after_the_fit() -> None:
    case = CASES["normalisation and dropout"]
    vi = fitted(case)
    assert vi.encoder.training
    buffers = {name: value.clone() for name, value in vi.guide.named_buffers()}
    first, second = (vi.posterior(case.x).mean["z"] for _ in range(2))
    assert torch.equal(first, second)
    one, other = (vi.evaluate(case.x, particles=3, seed=0) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    # One observation alone has the posterior that it has among others: no statistics of the batch.
    torch.testing.assert_close(vi.posterior(case.args[0][:1]).mean["z"], first[:1])
    for name, value in vi.guide.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_batch_statistics_are_learned_while_training() -> None:
    vi = fitted(CASES["normalisation and dropout"])
    means = [module.running_mean for module in (vi.encoder[1], vi.model.decoder[1])]
    assert all((mean != 0).all() for mean in means)


def test_the_learned_model_can_be_used_again() -> None:
    """A function's parameters live in the estimator; another one takes the model with them."""
    case = CASES["parameters of a function"]
    first = fitted(case, epochs=30, lr=0.05)
    learned = parameters_of(first)["model.adopted.0"]
    second = seeded(lambda: avi.AmortizedVI(first.model, case.make_encoder(), freeze_model=True))
    second.fit(case.x, epochs=1, seed=0, progress=False)
    assert torch.equal(parameters_of(second)["model.adopted.0"], learned)


def test_parameters_of_a_function_are_learned() -> None:
    """The maximum of the bound over the parameters: shift is the mean of the data, whatever else."""
    x = any_models.real() + torch.tensor([4.0, -2.0, 1.0])
    vi = seeded(lambda: avi.AmortizedVI(any_models.with_params, avi.encoders.MLP(3, []), "full"))
    vi.fit(x, epochs=400, lr=0.05, seed=0, progress=False, objective=avi.objectives.ELBO(particles=5))
    vi.fit(x, epochs=200, lr=0.005, seed=1, progress=False, objective=avi.objectives.ELBO(particles=5))
    adopted = dict(zip(vi._generative._adopted_names, vi._generative.adopted, strict=True))
    torch.testing.assert_close(adopted["shift"].detach(), x.mean(0), atol=0.1, rtol=0)


def test_groups_of_parameters_keep_their_learning_rates() -> None:
    def optimizer(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 10 * lr}], lr=lr)

    vi = fitted(CASES["a module"], optimizer=optimizer, lr=0.25)
    assert [group["lr"] for group in vi._trainer._optimizer.param_groups] == [0.25, 2.5]
    vi.fit(any_models.real(), epochs=1, optimizer=optimizer, lr=0.125, seed=0, progress=False)
    assert [group["lr"] for group in vi._trainer._optimizer.param_groups] == [0.125, 1.25]
