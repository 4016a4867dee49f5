"""The generative model: log-probabilities, joint densities and simulations of many draws at once."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn

from amortvi.data import Batch
from amortvi.model import Model, log_jacobian, sum_per_observation, sum_sites
from amortvi.model.library import LinearGaussian
from tests.any_models import CASES
from tests.exact import gamma_poisson, linear_gaussian

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


def test_log_joint_of_a_transformed_latent_includes_the_jacobian() -> None:
    x = torch.tensor([0.0, 3.0], dtype=torch.float64)
    batch = Batch((x,))
    model = Model(gamma_poisson).setup(batch, 2)
    grid = torch.linspace(-30, 8, 4001, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, 2, 1)
    with model.inference_mode():
        evidence = torch.trapezoid(model.log_joint(batch, grid).exp(), grid[..., 0], dim=0).log()
    exact = dist.NegativeBinomial(4.0, torch.tensor(1 / 3, dtype=torch.float64)).log_prob(x)
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
    batch = Batch((torch.zeros(5, 2),))
    structure = model.setup(batch, 5).structure
    assert model.setup(batch, 5).structure is structure


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
