"""The VAE: every shape of data and decoder, and a fit that recovers the scale of the noise."""

import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import ModelError, OptionError
from amortvi.model.library import VAE, Normal, Poisson
from tests.model.library.vaes import CLASSES, FEATURES, LATENTS, Classes, data, formula, log_probs


class ConvDecoder(nn.Module):
    """Accepts a single batch dimension, and returns images."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Linear(LATENTS, 16)
        self.last = nn.ConvTranspose2d(4, channels, kernel_size=4, stride=4)

    def forward(self, z: Tensor) -> Tensor:
        assert z.dim() == 2
        return self.last(self.first(z).reshape(-1, 4, 2, 2))


SHAPES = {
    "flat": ((64,), lambda: nn.Linear(LATENTS, 64)),
    "image from flat": ((1, 8, 8), lambda: nn.Linear(LATENTS, 64)),
    "image without channel from flat": ((8, 8), lambda: nn.Linear(LATENTS, 64)),
    "image from image": ((1, 8, 8), ConvDecoder),
    "flat from image": ((64,), ConvDecoder),
    "scalars from a column": ((), lambda: nn.Linear(LATENTS, 1)),
    "one column": ((1,), lambda: nn.Linear(LATENTS, 1)),
}
CLASS_SHAPES = {
    "flat": ((64,), lambda: nn.Linear(LATENTS, 64 * CLASSES)),
    "image from flat": ((1, 8, 8), lambda: nn.Linear(LATENTS, 64 * CLASSES)),
    "flat, classes last": ((64,), lambda: Classes(64)),
    "image, classes last": ((1, 8, 8), lambda: Classes(1, 8, 8)),
    "flat from image, classes last": ((64,), lambda: Classes(8, 8)),
    "one class": ((), lambda: nn.Linear(LATENTS, CLASSES)),
    "one column": ((1,), lambda: nn.Linear(LATENTS, CLASSES)),
}
CASES = [
    *(pytest.param(n, *SHAPES[s], id=f"{n}, {s}") for n in ("bernoulli", "normal", "poisson") for s in SHAPES),
    *(pytest.param("categorical", *CLASS_SHAPES[s], id=f"categorical, {s}") for s in CLASS_SHAPES),
]


@pytest.mark.parametrize(("likelihood", "event", "make_decoder"), CASES)
def test_shapes_of_data_and_decoder(likelihood: str, event: tuple[int, ...], make_decoder) -> None:
    decoder = make_decoder()
    model = VAE(decoder, LATENTS, Normal(0.3) if likelihood == "normal" else likelihood)
    x, z = data(likelihood, 5, event), torch.randn(5, LATENTS)
    classes = (CLASSES,) if likelihood == "categorical" else ()
    decoded = decoder(z).reshape(5, *event, *classes)
    log_likelihood = log_probs(model, x, z)[1]
    assert log_likelihood.shape == (5,)
    expected = formula(likelihood, decoded, x).reshape(5, -1).sum(-1)
    torch.testing.assert_close(log_likelihood, expected, rtol=1e-4, atol=1e-4)
    assert model.decode(z).shape == (5, *event, *classes)

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
        ("normal", (64,), nn.Linear(LATENTS, 128)),
        ("poisson", (1, 8, 8), ConvDecoder(3)),
        ("categorical", (64,), nn.Linear(LATENTS, 64)),
        ("categorical", (64,), nn.Linear(LATENTS, 100)),
        ("categorical", (1, 8, 8), ConvDecoder(CLASSES)),  # classes first would be scrambled by a reshape
    ],
)
def test_a_decoder_of_the_wrong_shape_is_refused(likelihood: str, event: tuple[int, ...], decoder: nn.Module) -> None:
    vi = avi.AmortizedVI(VAE(decoder, LATENTS, likelihood), avi.encoders.MLP(64, [4]))
    message = rf"decoder returns shape \(.*\) per observation, .* for the likelihood {likelihood.title()}"
    with pytest.raises(ModelError, match=message):
        vi.setup(data(likelihood, 5, event))


def test_decode_returns_means() -> None:
    z = torch.randn(5, LATENTS)
    linear, classes = nn.Linear(LATENTS, FEATURES), nn.Linear(LATENTS, FEATURES * CLASSES)
    torch.testing.assert_close(VAE(linear, LATENTS, "normal").decode(z), linear(z).detach())
    torch.testing.assert_close(VAE(linear, LATENTS, "bernoulli").decode(z), linear(z).sigmoid().detach())
    torch.testing.assert_close(VAE(linear, LATENTS, "poisson").decode(z), linear(z).exp().detach())
    model = VAE(classes, LATENTS, "categorical")
    log_probs(model, data("categorical"), z)
    expected = classes(z).detach().reshape(5, FEATURES, CLASSES).softmax(-1)
    torch.testing.assert_close(model.decode(z), expected)
    assert not model.decode(z).requires_grad


@pytest.mark.parametrize("decoder", [nn.Linear(LATENTS, 64), ConvDecoder()], ids=["flat", "image"])
def test_decode_accepts_any_batch_shape(decoder: nn.Module) -> None:
    model, z = VAE(decoder, LATENTS), torch.randn(2, 5, LATENTS)
    own = decoder(z[0]).shape[1:]
    assert model.decode(z).shape == (2, 5, *own)  # without data, in the shape of the decoder's output
    log_probs(model, data("bernoulli", 5, (1, 8, 8)), z[0])
    assert model.decode(z).shape == (2, 5, 1, 8, 8)
    assert model.decode(z[0, 0]).shape == (1, 8, 8)
    torch.testing.assert_close(model.decode(z)[1, 3], model.decode(z[1, 3]))


def test_vectorized_particles() -> None:
    """Particles add a dimension on the left, here of the same size as the number of features."""
    model, draws = VAE(ConvDecoder(), LATENTS, "normal"), 64
    x, z = data("normal", 5, (64,)), torch.randn(draws, 5, LATENTS)

    def many(x: Tensor) -> None:
        with pyro.plate("particles", draws, dim=-2):
            model(x)

    _, log_likelihood = log_probs(many, x, z)
    torch.testing.assert_close(log_likelihood, torch.stack([log_probs(model, x, each)[1] for each in z]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(nn.Linear(2, 3), 0), "latent_dim must be a positive integer; got 0"),
        (lambda: VAE(nn.Linear(2, 3), 2.0), "latent_dim must be a positive integer; got 2.0"),
        (lambda: VAE(lambda z: z, 2), "decoder must be an nn.Module"),
        (lambda: VAE(nn.Linear(2, 3), 2, "gamma"), r"likelihood must be one of .*'bernoulli'.* got 'gamma'"),
        (lambda: VAE(nn.Linear(2, 3), 2, Poisson), "likelihood must be one of .* got <class"),
        (lambda: Normal(0.0), "scale must be a finite positive number; got 0.0"),
        (lambda: Normal(math.nan), "scale must be a finite positive number; got nan"),
    ],
)
def test_options_are_checked(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_models_with_equal_names_share_nothing() -> None:
    """Two models with a site "x" and a parameter "decoder.weight", fitted in turn, are the same as fitted alone."""

    def fitted(seed: int, together: bool) -> dict[str, Tensor]:
        models = []
        for each in (0, 1):
            torch.manual_seed(each)
            models.append(avi.AmortizedVI(VAE(nn.Linear(2, 3), 2, "normal"), avi.encoders.MLP(3, [4])))
        for epochs in (1, 2):
            for each in (0, 1) if together else (seed,):
                models[each].fit(x + each, epochs=epochs, seed=each, progress=False)
        return models[seed].model.state_dict()

    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    pyro.get_param_store().setdefault("decoder$$$weight", torch.ones(3, 2))
    before = dict(pyro.get_param_store().items())
    try:
        for seed in (0, 1):
            alone, together = fitted(seed, together=False), fitted(seed, together=True)
            assert all(torch.equal(alone[name], together[name]) for name in alone)
        after = dict(pyro.get_param_store().items())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    finally:
        pyro.clear_param_store()


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
