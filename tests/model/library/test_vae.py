"""The VAE: every shape of data and decoder, and a fit that recovers the scale of the noise."""

import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from torch import nn

import amortvi as avi
from amortvi.errors import ModelError, OptionError
from amortvi.model.library import VAE, Normal, Poisson
from tests.model.library.vaes import CLASSES, LATENTS, Classes, data, formula, log_probs


def conv_decoder(channels: int = 1) -> nn.Module:
    """Return a decoder that accepts a single batch dimension and returns images."""
    last = nn.ConvTranspose2d(4, channels, kernel_size=4, stride=4)
    return nn.Sequential(nn.Linear(LATENTS, 16), nn.Unflatten(1, (4, 2, 2)), last)


def shapes(images: nn.Module, numbers: int = 1) -> list[tuple[tuple[int, ...], nn.Module]]:
    """Return the shape of one observation with a decoder: of ``images``, or of flat ``numbers`` for each entry."""
    flat = [(event, nn.Linear(LATENTS, numbers * math.prod(event))) for event in ((64,), (1, 8, 8), (8, 8), (), (1,))]
    return [*flat, ((1, 8, 8), images), ((64,), images)]


CASES = [(name, *shape) for name in ("bernoulli", "normal", "poisson") for shape in shapes(conv_decoder())]
CASES += [("categorical", *shape) for shape in shapes(Classes(1, 8, 8), CLASSES)]


@pytest.mark.parametrize(("likelihood", "event", "decoder"), CASES)
def test_density_for_every_shape_of_data_and_decoder(likelihood: str, event: tuple[int, ...], decoder) -> None:
    model = VAE(decoder, LATENTS, Normal(0.3) if likelihood == "normal" else likelihood)
    x, z = data(likelihood, 5, event), torch.randn(5, LATENTS)
    classes = (CLASSES,) if likelihood == "categorical" else ()
    decoded = decoder(z).reshape(5, *event, *classes)
    prior, log_likelihood = log_probs(model, x, z)
    torch.testing.assert_close(prior, torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))
    expected = formula(likelihood, decoded, x).reshape(5, -1).sum(-1)
    torch.testing.assert_close(log_likelihood, expected, rtol=1e-4, atol=1e-4)
    mean = {"bernoulli": decoded.sigmoid(), "poisson": decoded.exp(), "categorical": decoded.softmax(-1)}
    torch.testing.assert_close(model.decode(z), mean.get(likelihood, decoded).detach())

    vi = avi.AmortizedVI(model, avi.encoders.MLP(max(1, math.prod(event)), [4]), "diagonal")
    vi.setup(x, seed=0)
    assert vi.predict(x, 3, seed=0)["x"].shape == (3, 5, *event)
    assert vi.sample_prior(2, seed=0)["x"].shape == (2, *event)
    assert np.isfinite(vi.evaluate(x, particles=2)["elbo"]).all()


@pytest.mark.parametrize(
    ("likelihood", "event", "decoder"),
    [
        ("normal", (64,), nn.Linear(LATENTS, 63)),
        ("normal", (64,), nn.Linear(LATENTS, 1)),  # would broadcast, but draw another shape
        ("poisson", (1, 8, 8), conv_decoder(3)),
        ("categorical", (64,), nn.Linear(LATENTS, 64)),
        ("categorical", (1, 8, 8), conv_decoder(CLASSES)),  # classes first would be scrambled by a reshape
    ],
)
def test_a_decoder_of_the_wrong_shape_is_refused(likelihood: str, event: tuple[int, ...], decoder: nn.Module) -> None:
    vi = avi.AmortizedVI(VAE(decoder, LATENTS, likelihood), avi.encoders.MLP(64, [4]))
    message = rf"decoder returns shape \(.*\) per observation, .* for the likelihood {likelihood.title()}"
    with pytest.raises(ModelError, match=message):
        vi.setup(data(likelihood, 5, event))


def test_decode_accepts_any_batch_shape() -> None:
    model, z = VAE(nn.Linear(LATENTS, 64), LATENTS), torch.randn(2, 5, LATENTS)
    assert model.decode(z).shape == (2, 5, 64)  # without data, in the shape of the decoder's output
    log_probs(model, data("bernoulli", 5, (1, 8, 8)), z[0])
    assert model.decode(z).shape == (2, 5, 1, 8, 8)
    torch.testing.assert_close(model.decode(z)[1, 3], model.decode(z[1, 3]))
    assert not model.decode(z).requires_grad


def test_vectorized_particles() -> None:
    """Particles add a dimension on the left, here of the same size as the number of features."""
    model, x, z = VAE(conv_decoder(), LATENTS, "normal"), data("normal", 5, (64,)), torch.randn(64, 5, LATENTS)
    many = pyro.plate("particles", 64, dim=-2)(model)
    torch.testing.assert_close(log_probs(many, x, z)[1], torch.stack([log_probs(model, x, each)[1] for each in z]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(nn.Linear(2, 3), 0), "latent_dim must be a positive integer; got 0"),
        (lambda: VAE(lambda z: z, 2), "decoder must be an nn.Module"),
        (lambda: VAE(nn.Linear(2, 3), 2, "gamma"), r"likelihood must be one of .*'bernoulli'.* got 'gamma'"),
        (lambda: VAE(nn.Linear(2, 3), 2, Poisson), "likelihood must be one of .* got <class"),
        (lambda: Normal(0.0), "scale must be a finite positive number; got 0.0"),
    ],
)
def test_options_are_checked(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_the_learned_scale_is_that_of_the_noise() -> None:
    """Its maximum-likelihood estimate is the root mean of the smallest eigenvalues (Tipping and Bishop, 1999)."""
    observations, features, latents, epochs = 500, 8, 2, 30
    torch.manual_seed(0)
    x = torch.randn(observations, latents) @ torch.randn(latents, features) + 0.4 * torch.randn(observations, features)
    model = VAE(nn.Linear(latents, features), latents, "normal")
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(features, []), "full")
    vi.fit(x, epochs=epochs, batch_size=50, lr=0.05, lr_schedule=schedule, progress=False, seed=0)
    exact = float(torch.linalg.eigvalsh(torch.cov(x.mT, correction=0))[: features - latents].mean().sqrt())
    learned = float(model.likelihood.log_scale.detach().exp())
    assert learned == pytest.approx(exact, rel=0.15)  # it starts at 1.0, and is within 0.04 at the end
