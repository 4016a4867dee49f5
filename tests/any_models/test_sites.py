"""Plates, masks, weights and priors: their effect on bounds, predictions and exports."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.data import Batch
from tests.any_models import CASES, ROWS, Case, case, latents, observed, padded, real
from tests.any_models.estimators import fit, fitted, make_vi, weights_of


def test_observed_data_are_exported_by_observation() -> None:
    for name in ("a plate on the right", "a plate on the left", "two observed sites", "a chain", "convolutions"):
        tree = fitted(name).to_arviz(CASES[name].x, 2, prior_draws=0, posterior_predictive=False, seed=0)
        found = tree["observed_data"]
        x = np.stack([found[f"x_{t}"] for t in range(3)], axis=1) if name == "a chain" else found["x"]
        np.testing.assert_array_equal(x, CASES[name].args[0])


MEANS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "a plate on the right": lambda mean: mean["level"][:, None] + mean["rate"],
    "a plate on the left": lambda mean: mean["z"].sum(-1),
    "plates on both sides": lambda mean: mean["z"][:, :, None] + mean["w"],
}


@pytest.mark.parametrize("name", MEANS)
def test_predictions_belong_to_their_observation_and_part(name: str) -> None:
    """The mean of predictions follows the posterior mean of each row and part, wherever the plates are."""
    draws, vi = 10_000, fit(CASES[name], epochs=15, lr=0.05)
    x = vi.predict(CASES[name].x, draws, seed=0)["x"]
    error = x.std(0) / draws**0.5
    expected = MEANS[name](vi.posterior(CASES[name].x).mean)
    assert x.mean(0).shape == expected.shape
    assert ((x.mean(0) - expected).abs() < 5.5 * error).all()
    assert expected.std() > 10 * error.mean()  # so predictions of other observations would be detected


def test_subsampled_and_complete_plates_have_the_same_elbos() -> None:
    part, whole = CASES["a subsampled plate"], case(partial(latents.subsampled, size=None))
    one, other = fit(whole), fit(part)
    # Trained on the same minibatches they stay equal: the scale of a subsample changes no step.
    for name, value in one.guide.state_dict().items():
        torch.testing.assert_close(value, other.guide.state_dict()[name], rtol=1e-5, atol=1e-6)
    other.guide.load_state_dict(one.guide.state_dict())
    for draws in (1, 5):  # five draws of twelve observations are more than the thirty that the plate declares
        mine, theirs = (weights_of(vi, each, draws, seed=2) for vi, each in ((one, whole), (other, part)))
        torch.testing.assert_close(mine.log_weight, theirs.log_weight, rtol=1e-6, atol=1e-6)
    tables = [vi.evaluate(part.x, particles=5, seed=0) for vi in (one, other)]
    np.testing.assert_allclose(*tables, rtol=1e-6, atol=1e-6)
    assert other.generative.structure.standard_normal_prior


@pytest.mark.parametrize("size", [1000, 7777, 10**6 + 3])
def test_a_subsample_of_any_size_has_a_closed_form_kl(size: int) -> None:
    """The scale of the plate cancels only up to rounding."""
    model = partial(latents.subsampled, size=size)
    for rows in (3, 7, 11):
        guide = avi.AmortizedGuide(model, avi.encoders.MLP(3, [4])).setup(real()[:rows])
        assert guide.model.structure.standard_normal_prior


def test_masked_values_have_no_effect() -> None:
    """Masked values may be anything, and an observation that is masked entirely has likelihood one."""
    x, seen = real(), real() > 0
    seen[4] = False
    changed = torch.where(seen, x, torch.tensor(777.0))

    class OnlySeen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor, seen: Tensor) -> Tensor:
            return self.layer(torch.cat([torch.where(seen, x, torch.zeros(())), seen.float()], dim=1))

    vi = avi.AmortizedVI(observed.masked, OnlySeen()).setup((x, seen), seed=0)
    tables = [vi.evaluate((values, seen), particles=20, seed=0) for values in (x, changed)]
    np.testing.assert_array_equal(*tables)
    likelihood = weights_of(vi, Case(lambda: observed.masked, (x, seen)), 3, seed=0).log_likelihoods["x"]
    assert torch.equal((likelihood == 0).all(0), ~seen.any(1))


def test_weights_multiply_the_likelihood_of_each_observation() -> None:
    weighted, vi = CASES["weights"], fitted("weights")
    found = weights_of(vi, weighted, 3, seed=0)
    unweighted = Batch((weighted.args[0], torch.zeros_like(weighted.args[1])))
    with vi.generative.inference_mode():
        expected = vi.generative.log_probs(unweighted, vi.guide.latents.constrain(found.drawn.vector)[0]).local
    torch.testing.assert_close(found.log_likelihoods["x"], expected["x"] * weighted.args[1].exp()[:, 0])
    torch.testing.assert_close(found.log_priors["z"], expected["z"])


def test_a_prior_that_is_standard_normal_only_on_the_example() -> None:
    """A covariate is zero in the example, but its effect on the prior is not overlooked."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(y, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(padded(z), 0.5).to_event(1), obs=x)

    x, shifted, draws = real(), torch.full((ROWS, 2), 3.0), 4000
    vi = make_vi(case(model, x, torch.zeros(ROWS, 2))).setup((x, torch.zeros(ROWS, 2)), seed=0)
    posterior = vi.posterior((x, shifted))
    q = dist.MultivariateNormal(posterior.mean["z"], posterior.covariance)
    exact = torch.distributions.kl_divergence(q, dist.MultivariateNormal(shifted, torch.eye(2)))
    weights = weights_of(vi, Case(lambda: model, (x, shifted)), draws, seed=0)
    error = weights.log_ratio.std(0) / draws**0.5
    found = torch.tensor(vi.evaluate((x, shifted), particles=draws, seed=0)["kl"].to_numpy())
    assert ((found - exact).abs() < 5 * error).all()
    assert (exact > 20 * error).all()


def test_dropout_and_batch_statistics_are_off_after_the_fit() -> None:
    name = "normalisation and dropout"
    vi, x = fitted(name), CASES[name].args[0]
    assert vi.encoder.training
    buffers = {key: value.clone() for key, value in vi.guide.named_buffers()}
    first, second = (vi.posterior(x).mean["z"] for _ in range(2))
    assert torch.equal(first, second)
    np.testing.assert_array_equal(*(vi.evaluate(x, particles=3, seed=0) for _ in range(2)))
    # The posterior of an observation does not depend on the others in its batch.
    torch.testing.assert_close(vi.posterior(x[:1]).mean["z"], first[:1])
    assert all(torch.equal(value, buffers[key]) for key, value in vi.guide.named_buffers())
    assert all((layer.running_mean != 0).all() for layer in (vi.encoder[1], vi.model.decoder[1]))
