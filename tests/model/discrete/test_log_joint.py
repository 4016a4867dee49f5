"""The log joint density with discrete latents summed out, against sums written by hand."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.data import Batch
from amortvi.model import Model
from tests.model.discrete.programs import CASES, MEANS, SCALES, WEIGHTS, N, X, mixture_likelihood

DRAWS = 3


def latents(name: str) -> Tensor:
    return torch.randn(DRAWS, N, *CASES[name].event, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", CASES)
def test_the_density_is_exact(name: str) -> None:
    case, z = CASES[name], latents(name)
    model, expected = case.model(), case.log_joint(latents(name))
    scores = model.log_probs(case.batch, {"z": z})
    assert set(scores.local) == case.terms
    torch.testing.assert_close(model.log_joint(case.batch, z.reshape(DRAWS, N, -1)), expected)
    total = torch.stack([*scores.priors.values(), *scores.likelihoods.values()]).sum(0)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_the_exact_density(name: str) -> None:
    case, z = CASES[name], latents(name).requires_grad_()
    found = case.model().log_joint(case.batch, z.reshape(DRAWS, N, -1)).sum()
    expected = case.log_joint(z).sum()
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (found, expected)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_one_observation_is_the_same_as_in_a_batch(name: str) -> None:
    case, z = CASES[name], latents(name).reshape(DRAWS, N, -1)
    model = case.model()
    alone = model.log_joint(case.batch.take(torch.tensor([4])), z[:1, 4:5])
    torch.testing.assert_close(alone, model.log_joint(case.batch, z)[:1, 4:5])


def test_a_mixed_term_is_split_into_prior_and_likelihood() -> None:
    case, z = CASES["prior and likelihood"], latents("prior and likelihood")
    scores = case.model().log_probs(case.batch, {"z": z})
    prior = (dist.Normal(MEANS, SCALES).log_prob(z.unsqueeze(-1)) + WEIGHTS.log()).logsumexp(-1)
    torch.testing.assert_close(scores.priors, {"y, z": prior})
    torch.testing.assert_close(scores.likelihoods, {"y, x": case.log_joint(z) - prior})
    assert scores.observed_names == {"y, x": "x"}


def test_the_evidence_of_a_mixture() -> None:
    """Integrated over ``z`` on a grid, the density is the evidence, a mixture of normal densities."""
    grid = torch.linspace(-12.0, 12.0, 4001).reshape(-1, 1, 1).expand(-1, N, 1)
    for name, each in {
        "a mixture likelihood": dist.Normal(MEANS, (1 + SCALES.square()).sqrt()),
        "a mixture prior": dist.Normal(MEANS, (0.8**2 + SCALES.square()).sqrt()),
    }.items():
        case = CASES[name]
        log_joint = case.model().log_joint(case.batch, grid)
        evidence = log_joint.logsumexp(0) + torch.tensor(24.0 / 4000).log()
        expected = (each.log_prob(X.unsqueeze(-1)) + WEIGHTS.log()).logsumexp(-1)
        torch.testing.assert_close(evidence, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "depends"), [("a mixture likelihood", False), ("a mixture prior", True)])
def test_a_prior_that_depends_on_a_discrete_latent_is_not_standard_normal(name: str, depends: bool) -> None:
    structure = CASES[name].model().structure
    assert (structure.standard_normal_prior, structure.discrete_priors) == (not depends, depends)


def test_a_rare_value_of_the_prior_decides() -> None:
    """The latent is standard normal for all values but one, which no draw on the example has."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(torch.tensor([1 - 1e-6, 1e-6])))
            z = pyro.sample("z", dist.Normal(0.0, torch.tensor([1.0, 3.0])[y]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    assert not Model(model).setup(Batch((X,)), N).structure.standard_normal_prior


def test_no_probability_underflows() -> None:
    """The factors are largest at values whose joint probability is negligible."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(logits=torch.tensor([0.0, -300.0])))
            pyro.sample("x", dist.Normal(z + 100.0 * y, 1.0), obs=x)

    x = torch.full((N,), 100.0)
    found = Model(model).setup(Batch((x,)), N).log_joint(Batch((x,)), torch.zeros(1, N, 1))
    torch.testing.assert_close(found, (-300.0 + 2 * dist.Normal(0.0, 1.0).log_prob(torch.zeros(1, N))))


def test_impossible_transitions_have_a_gradient() -> None:
    """From the middle state of a left-to-right chain, all ways to the first are impossible."""
    left_to_right = torch.tensor([[0.0, 0.0, -torch.inf], [-torch.inf, 0.0, 0.0], [-torch.inf, -torch.inf, 0.0]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            state = torch.tensor(0)
            for t in pyro.markov(range(4)):
                state = pyro.sample(f"y_{t}", dist.Categorical(logits=left_to_right[state]))
                pyro.sample(f"x_{t}", dist.Normal(z * state, 1.0), obs=x[:, t])
                if t == 3:
                    pyro.factor("ends in the first state", torch.where(state == 0, 0.0, -torch.inf))

    batch = Batch((torch.zeros(N, 4),))
    vector = torch.ones(1, N, 1, requires_grad=True)
    density = Model(model).setup(batch, N).log_joint(batch, vector)
    # The only way is to stay in the first state, four times with probability one half.
    expected = 5 * dist.Normal(0.0, 1.0).log_prob(torch.zeros(())) - 0.5 + 4 * torch.tensor(0.5).log()
    torch.testing.assert_close(density, expected.expand(1, N))
    torch.testing.assert_close(torch.autograd.grad(density.sum(), vector)[0], -vector.detach())


def test_draws_given_data_follow_the_exact_posterior() -> None:
    case, count = CASES["two sites"], 4000
    z = torch.full((1, N), 0.3)
    model = case.model()
    with model.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = model.with_discrete(case.batch, {"z": z.expand(count, N)})
    exact = torch.zeros(3, 2, N)
    for a in range(3):
        for b in range(2):
            probability = dist.Bernoulli(logits=z[0] + MEANS[a]).log_prob(torch.tensor(float(b)))
            exact[a, b] = WEIGHTS[a].log() + probability + dist.Normal(MEANS[a] * b + z[0], 0.5).log_prob(X)
    exact = exact.flatten(0, 1).softmax(0)
    joint = (2 * drawn["a"] + drawn["b"]).long().reshape(count, N)
    found = torch.nn.functional.one_hot(joint, 6).float().mean(0).T
    assert ((found - exact).abs() < 5 * (exact * (1 - exact) / count).sqrt() + 1e-3).all()


@pytest.mark.parametrize("name", ["two sites", "words", "a chain", "some labels"])
def test_probabilities_are_those_of_the_draws(name: str) -> None:
    case, count = CASES[name], 3000
    z = latents(name)[:1].expand(count, *latents(name).shape[1:])
    model = case.model()
    with model.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = model.with_discrete(case.batch, {"z": z})
        _, groups = model.discrete_groups(case.batch, {"z": z[:1]})
    probs = {key: value for group in groups for key, value in group.probs().items()}
    assert set(probs) == {site.name for site in model.structure.discrete}
    for site in model.structure.discrete:
        rows = site.layout.to_observations(drawn[site.name])
        found = (
            torch.nn.functional.one_hot(site.positions(rows), len(site.values)).float().unflatten(0, (count, N)).mean(0)
        )
        exact = probs[site.name]
        assert found.shape == exact.shape
        assert ((found - exact).abs() < 5 * (exact * (1 - exact) / count).sqrt() + 1e-3).all()


def test_probabilities_by_bayes() -> None:
    case, z = CASES["a mixture likelihood"], latents("a mixture likelihood")
    _, (group,) = case.model().discrete_groups(case.batch, {"z": z})
    each = dist.Normal(z.unsqueeze(-1) + MEANS, SCALES).log_prob(X.unsqueeze(-1)) + WEIGHTS.log()
    torch.testing.assert_close(group.probs()["y"].unflatten(0, (DRAWS, N)), each.softmax(-1))


def test_simulations() -> None:
    """From the prior, a class has its prior probabilities; given data and latents, new data have its posterior ones."""
    model, batch, count = Model(mixture_likelihood).setup(Batch((X,)), N), Batch((X,)), 4000
    with model.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        prior = model.simulate(batch, None, count)
        z = torch.zeros(count, N)
        replicated = model.simulate(batch, {"z": z}, count)["x"]
        _, (group,) = model.discrete_groups(batch, {"z": z[:1]})
    shares = torch.nn.functional.one_hot(prior["y"], 3).float().mean((0, 1))
    assert ((shares - WEIGHTS).abs() < 5 * (WEIGHTS * (1 - WEIGHTS) / (count * N)).sqrt()).all()
    probs = group.probs()["y"]
    mean = probs @ MEANS
    variance = probs @ (MEANS.square() + SCALES.square()) - mean.square()
    assert ((replicated.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all()


def test_global_latents_set_the_components() -> None:
    def program(x: Tensor) -> None:
        means = pyro.sample("means", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Normal(z + means[y], SCALES[y]), obs=x)

    batch, z = Batch((X,)), torch.randn(2, N, generator=torch.Generator().manual_seed(0))
    scores = Model(program).setup(batch, N).log_probs(batch, {"z": z}, theta={"means": MEANS})
    torch.testing.assert_close(scores.global_log_prob, dist.Normal(0.0, 2.0).log_prob(MEANS).sum())
    torch.testing.assert_close(scores.local["z"] + scores.local["y, x"], CASES["a mixture likelihood"].log_joint(z))


def test_a_latent_with_one_value() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(torch.ones(1)))
            z = pyro.sample("z", dist.Normal(torch.ones(1)[y], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    batch, z = Batch((X,)), torch.zeros(1, N)
    model = Model(program).setup(batch, N)
    expected = dist.Normal(1.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)
    torch.testing.assert_close(model.log_joint(batch, z.unsqueeze(-1)), expected)
    _, (group,) = model.discrete_groups(batch, {"z": z})
    torch.testing.assert_close(group.probs()["y"], torch.ones(N, 1))
    assert torch.equal(model.with_discrete(batch, {"z": z})["y"], torch.zeros(N, dtype=torch.long))


def test_a_subsampled_data_plate_leaves_the_density_of_an_observation_as_it_is() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample=x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Normal(z + MEANS[y], SCALES[y]), obs=x)

    case, z = CASES["a mixture likelihood"], latents("a mixture likelihood")
    found = Model(program).setup(case.batch, N).log_joint(case.batch, z.unsqueeze(-1))
    torch.testing.assert_close(found, case.log_joint(z))
