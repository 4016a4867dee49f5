"""The generative model: log-probabilities, joint densities and simulations of many draws at once."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn

from amortvi.data import Batch
from amortvi.errors import DataError, ModelError, NotFittedError
from amortvi.model import Model, log_jacobian, sum_per_observation, sum_sites
from amortvi.model.library import LinearGaussian
from tests.any_models import CASES
from tests.exact import linear_gaussian

DRAWS = 3


@pytest.mark.parametrize("name", CASES)
def test_log_joint_is_that_of_pyro_and_simulations_have_the_shapes_of_the_data(name: str) -> None:
    """The sum over observations, scaled by the plate, plus the sites outside it, is Pyro's log joint of each draw."""
    torch.manual_seed(0)
    case = CASES[name]
    batch = Batch(case.args, case.kwargs)
    model = Model(case.make()).setup(batch, batch.size)
    vector = 0.3 * torch.randn(DRAWS, batch.size, model.latents.dim)
    with model.inference_mode():
        values, log_dets = model.latents.constrain(vector)
        scores = model.log_probs(batch, values)
        likelihoods = model.log_probs(batch, values, skip_priors=True).local
        assert scores.local.keys() - likelihoods.keys() == model.latents.names
        log_joint = model.log_joint(batch, vector)
        assert log_joint.shape == (DRAWS, batch.size)
        jacobian = log_jacobian(log_dets, log_joint)
        torch.testing.assert_close(log_joint, sum_sites(scores.local) + jacobian)
        for i in range(DRAWS):
            one = model.to_model_layout({name: value[[i]] for name, value in values.items()})
            trace = poutine.trace(poutine.condition(model.program, data=one)).get_trace(*batch.args, **batch.kwargs)
            local = sum_sites(scores.local)[i].sum()
            expected = case.scale * local + scores.global_log_prob
            torch.testing.assert_close(expected, trace.log_prob_sum(), rtol=1e-4, atol=1e-3)
        given = model.simulate(batch, values, DRAWS, draws_at_once=2)
        prior = model.simulate(batch, None, 2)
    assert set(prior) == set(given) | set(case.shapes)
    for name, value in given.items():
        assert value.shape[:2] == (DRAWS, batch.size)
        assert value.isfinite().all()
        assert prior[name].shape == (2, *value.shape[1:])
    for name, shape in case.shapes.items():
        assert prior[name].shape == (2, batch.size, *shape)


def test_log_joint_of_a_linear_gaussian_model() -> None:
    program = linear_gaussian()
    x = program.simulate(6, seed=0)
    batch = Batch((x,))
    model = Model(program).setup(batch, 6)
    z = torch.randn(4, 6, 3, dtype=torch.float64)
    expected = program.posterior(x).log_prob(z) + program.log_evidence(x)
    torch.testing.assert_close(model.log_joint(batch, z), expected)


def gamma_poisson(x: torch.Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def test_log_joint_of_a_transformed_latent_includes_the_jacobian() -> None:
    x = torch.tensor([0.0, 3.0], dtype=torch.float64)
    batch = Batch((x,))
    model = Model(gamma_poisson).setup(batch, 2)
    grid = torch.linspace(-30, 8, 4001, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, 2, 1)
    with model.inference_mode():
        evidence = torch.trapezoid(model.log_joint(batch, grid).exp(), grid[..., 0], dim=0).log()
    exact = dist.NegativeBinomial(torch.tensor(2.0).double(), probs=torch.tensor(0.5).double()).log_prob(x)
    torch.testing.assert_close(evidence, exact, rtol=0, atol=1e-6)


def test_simulations_given_latents_follow_the_likelihood() -> None:
    program = linear_gaussian()
    batch = Batch((program.simulate(2, seed=0),))
    model = Model(program).setup(batch, 2)
    torch.manual_seed(0)
    z = torch.randn(1, 2, 3, dtype=torch.float64)
    draws = 20_000
    with model.inference_mode():
        x = model.simulate(batch, {"z": z.expand(draws, 2, 3)}, draws, draws_at_once=7000)["x"]
    error = (x.mean(0) - (z[0] @ program.W.mT + program.bias)) / (program.scale / math.sqrt(draws))
    assert error.abs().max() < 5
    assert (x.std(0) / program.scale - 1).abs().max() < 5 / math.sqrt(2 * draws)


def test_inference_mode() -> None:
    program = nn.Sequential(nn.Dropout(0.5))
    pyro.enable_validation(True)
    with Model(program).inference_mode():
        assert [torch.is_grad_enabled(), program[0].training, dist.is_validation_enabled()] == [False] * 3
    assert [torch.is_grad_enabled(), program[0].training, dist.is_validation_enabled()] == [True] * 3


def test_setup_reads_the_structure_once() -> None:
    model = Model(LinearGaussian(torch.eye(2), scale=1.0))
    with pytest.raises(NotFittedError, match="call fit or setup first"):
        _ = model.structure
    batch = Batch((torch.zeros(5, 2),))
    structure = model.setup(batch, 5).structure
    assert model.setup(batch, 5).structure is structure


def optional_sites(x: torch.Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if x[0] != 1:
            pyro.sample("w", dist.Normal(0.0, 1.0))
        if x[0] == 2:
            pyro.sample("new", dist.Normal(0.0, 1.0))
        if x[0] != 3:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (1.0, r"did not reach its latent sites \['w'\]"),
        (2.0, "latent site 'new' was not in the model at setup"),
        (3.0, "observed nothing in plate 'data'"),
    ],
)
def test_sites_that_depend_on_the_data_are_refused(first: float, message: str) -> None:
    model = Model(optional_sites).setup(Batch((torch.zeros(4),)), 4)
    with pytest.raises(ModelError, match=message):
        model.log_joint(Batch((torch.full((4,), first),)), torch.zeros(1, 4, 2))


def test_errors_of_the_program_are_reported_with_the_shapes() -> None:
    model = Model(LinearGaussian(torch.eye(2), scale=1.0)).setup(Batch((torch.zeros(5, 2),)), 5)
    with pytest.raises(ModelError, match=r"the model failed on x\[0\] of shape \(5, 2\).*2 arguments.*leave out those"):
        model.run(Batch((torch.zeros(5, 2), torch.zeros(5))))


def test_data_are_checked_on_request() -> None:
    x = torch.tensor([1.0, 2.0])
    model = Model(gamma_poisson).setup(Batch((x,)), 2)
    state = torch.get_rng_state()
    model.check_data(Batch((x,)))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(DataError, match=r"observed site 'x' .* the first of them -1\.0"):
        model.check_data(Batch((torch.tensor([1.0, -1.0]),)))


@pytest.mark.parametrize(
    ("shape", "dim", "expected"),
    [((), -1, (5,)), ((5,), -1, (5,)), ((1,), -1, (5,)), ((5, 3), -2, (5,)), ((2, 5, 3), -2, (5,)), ((2, 5), -1, (5,))],
)
def test_sum_per_observation(shape: tuple[int, ...], dim: int, expected: tuple[int, ...]) -> None:
    log_prob = torch.rand(shape)
    found = sum_per_observation(log_prob, dim, 5)
    assert found.shape == expected
    if 5 in shape:
        torch.testing.assert_close(found.sum(), log_prob.sum())
