"""The VAE's generative half: densities by hand, every shape of data and decoder, and fits that find what made the data."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import DataError, ModelError, OptionError
from amortvi.model.library import VAE, Categorical, Likelihood, Normal, Poisson

LATENTS, FEATURES, CLASSES = 3, 6, 4


def _data(likelihood: str, observations: int = 5, event: tuple[int, ...] = (FEATURES,), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (observations, *event)
    return {
        "bernoulli": lambda: torch.rand(shape, generator=generator).round(),
        "normal": lambda: torch.randn(shape, generator=generator),
        "categorical": lambda: torch.randint(CLASSES, shape, generator=generator),
        "poisson": lambda: torch.poisson(torch.full(shape, 2.0), generator=generator),
    }[likelihood]()


def _log_probs(model, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    return trace.nodes["z"]["log_prob"], trace.nodes["x"]["log_prob"]


def _by_hand(likelihood: str, decoded: Tensor, x: Tensor) -> Tensor:
    """The log-density of each entry, from its formula."""
    if likelihood == "bernoulli":
        return x * decoded.sigmoid().log() + (1 - x) * (1 - decoded.sigmoid()).log()
    if likelihood == "normal":
        return -0.5 * ((x - decoded) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    if likelihood == "poisson":
        return x * decoded - decoded.exp() - torch.lgamma(x + 1)
    return decoded.softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1).log()


class Classes(nn.Module):
    """A decoder with the classes as its last dimension."""

    def __init__(self, *event: int) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENTS, math.prod(event) * CLASSES)
        self.event = event

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).reshape(z.shape[0], *self.event, CLASSES)


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "categorical", "poisson"])
def test_density_by_hand(likelihood: str) -> None:
    decoder = Classes(FEATURES) if likelihood == "categorical" else nn.Linear(LATENTS, FEATURES)
    model = VAE(decoder, LATENTS, Normal(0.3) if likelihood == "normal" else likelihood)
    x, z = _data(likelihood), torch.randn(5, LATENTS)
    prior, log_likelihood = _log_probs(model, x, z)
    torch.testing.assert_close(prior, torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))
    torch.testing.assert_close(log_likelihood, _by_hand(likelihood, decoder(z), x).sum(-1))


def test_grey_values_score_as_expected_bits() -> None:
    """Half black is the mean of the log-densities of black and white."""
    model, z = VAE(nn.Linear(LATENTS, FEATURES), LATENTS), torch.randn(5, LATENTS)
    x = torch.rand(5, FEATURES)
    black, white = (_log_probs(model, torch.full_like(x, value), z)[1] for value in (0.0, 1.0))
    half = _log_probs(model, torch.full_like(x, 0.5), z)[1]
    torch.testing.assert_close(half, (black + white) / 2)
    torch.testing.assert_close(_log_probs(model, x, z)[1], _by_hand("bernoulli", model.decoder(z), x).sum(-1))


@pytest.mark.parametrize("factor", [16.0, -1.0])
def test_intensities_beyond_one_are_refused(factor: float) -> None:
    """Their "density" has no bound: a fit would run off to ever better numbers that mean nothing."""
    vi = avi.AmortizedVI(VAE(nn.Linear(2, FEATURES), 2), avi.encoders.MLP(FEATURES, [4]))
    x = torch.rand(20, FEATURES) * factor
    with pytest.raises(DataError, match=r"takes values in the support .*lower_bound=0.0, upper_bound=1.0.*outside"):
        vi.fit(x, epochs=1, progress=False)


class ConvDecoder(nn.Module):
    """Takes one batch dimension only, and gives images of ``channels`` channels."""

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
    "one number from a column": ((), lambda: nn.Linear(LATENTS, 1)),
    "one column": ((1,), lambda: nn.Linear(LATENTS, 1)),
}
CLASS_SHAPES = {
    "flat": ((64,), lambda: nn.Linear(LATENTS, 64 * CLASSES)),
    "image from flat": ((1, 8, 8), lambda: nn.Linear(LATENTS, 64 * CLASSES)),
    "flat, classes last": ((64,), lambda: Classes(64)),
    "image, classes last": ((1, 8, 8), lambda: Classes(1, 8, 8)),
    "flat from image, classes last": ((64,), lambda: Classes(8, 8)),
    "one category": ((), lambda: nn.Linear(LATENTS, CLASSES)),
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
    x, z = _data(likelihood, 5, event), torch.randn(5, LATENTS)
    classes = (CLASSES,) if likelihood == "categorical" else ()
    decoded = decoder(z).reshape(5, *event, *classes)
    log_likelihood = _log_probs(model, x, z)[1]
    assert log_likelihood.shape == (5,)
    expected = _by_hand(likelihood, decoded, x).reshape(5, -1).sum(-1)
    torch.testing.assert_close(log_likelihood, expected, rtol=1e-4, atol=1e-4)
    assert model.decode(z).shape == (5, *event, *classes)

    vi = avi.AmortizedVI(model, avi.encoders.MLP(max(1, math.prod(event)), [4]), "diagonal")
    vi.fit(x, epochs=1, progress=False, seed=0)
    assert vi.predict(x, 3, seed=0)["x"].shape == (3, 5, *event)
    assert vi.sample_prior(2, seed=0)["x"].shape == (2, *event)
    assert np.isfinite(vi.evaluate(x, particles=2)["elbo"]).all()


@pytest.mark.parametrize(
    ("likelihood", "event", "decoder"),
    [
        ("normal", (64,), nn.Linear(LATENTS, 63)),
        ("normal", (64,), nn.Linear(LATENTS, 1)),  # would broadcast, with draws of another shape than the data
        ("normal", (64,), nn.Linear(LATENTS, 128)),
        ("poisson", (1, 8, 8), ConvDecoder(3)),
        ("categorical", (64,), nn.Linear(LATENTS, 64)),
        ("categorical", (64,), nn.Linear(LATENTS, 100)),
        ("categorical", (1, 8, 8), ConvDecoder(CLASSES)),  # the classes first: reshaped, they would be scrambled
    ],
)
def test_a_decoder_that_does_not_fit_the_data(likelihood: str, event: tuple[int, ...], decoder: nn.Module) -> None:
    vi = avi.AmortizedVI(VAE(decoder, LATENTS, likelihood), avi.encoders.MLP(64, [4]))
    message = rf"decoder returns shape \(.*\) an observation, which likelihood {likelihood.title()} cannot use for x of"
    with pytest.raises(ModelError, match=message):
        vi.fit(_data(likelihood, 5, event), epochs=1, progress=False)


def test_decode_gives_means() -> None:
    z = torch.randn(5, LATENTS)
    linear, classes = nn.Linear(LATENTS, FEATURES), nn.Linear(LATENTS, FEATURES * CLASSES)
    torch.testing.assert_close(VAE(linear, LATENTS, "normal").decode(z), linear(z).detach())
    torch.testing.assert_close(VAE(linear, LATENTS, "bernoulli").decode(z), linear(z).sigmoid().detach())
    torch.testing.assert_close(VAE(linear, LATENTS, "poisson").decode(z), linear(z).exp().detach())
    model = VAE(classes, LATENTS, "categorical")
    _log_probs(model, _data("categorical"), z)
    expected = classes(z).detach().reshape(5, FEATURES, CLASSES).softmax(-1)
    torch.testing.assert_close(model.decode(z), expected)
    assert not model.decode(z).requires_grad


@pytest.mark.parametrize("decoder", [nn.Linear(LATENTS, 64), ConvDecoder()], ids=["flat", "image"])
def test_decode_takes_any_batch_shape(decoder: nn.Module) -> None:
    model, z = VAE(decoder, LATENTS), torch.randn(2, 5, LATENTS)
    own = decoder(z[0]).shape[1:]
    assert model.decode(z).shape == (2, 5, *own)  # no data yet: as the decoder has it
    _log_probs(model, _data("bernoulli", 5, (1, 8, 8)), z[0])
    assert model.decode(z).shape == (2, 5, 1, 8, 8)
    assert model.decode(z[0, 0]).shape == (1, 8, 8)
    torch.testing.assert_close(model.decode(z)[1, 3], model.decode(z[1, 3]))


def test_draws_in_an_outer_plate_of_pyro() -> None:
    """Vectorized particles put a dimension in front of the observations, here as many as there are features."""
    model, draws = VAE(ConvDecoder(), LATENTS, "normal"), 64
    x, z = _data("normal", 5, (64,)), torch.randn(draws, 5, LATENTS)

    def many(x: Tensor) -> None:
        with pyro.plate("particles", draws, dim=-2):
            model(x)

    _, log_likelihood = _log_probs(many, x, z)
    torch.testing.assert_close(log_likelihood, torch.stack([_log_probs(model, x, each)[1] for each in z]))


def test_a_likelihood_of_ones_own() -> None:
    class Laplace(Likelihood):
        """Location and log scale for each entry."""

        def forward(self, decoded: Tensor) -> dist.Laplace:
            location, log_scale = decoded.unbind(-1)
            return dist.Laplace(location, log_scale.exp())

    decoder = nn.Linear(LATENTS, 2 * FEATURES)
    model, x, z = VAE(decoder, LATENTS, Laplace()), _data("normal"), torch.randn(5, LATENTS)
    location, log_scale = decoder(z).reshape(5, FEATURES, 2).unbind(-1)
    expected = -(x - location).abs() / log_scale.exp() - log_scale - math.log(2)
    torch.testing.assert_close(_log_probs(model, x, z)[1], expected.sum(-1))
    torch.testing.assert_close(model.decode(z), location.detach())
    x = _data("normal", 200)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(FEATURES, [8])).fit(x, epochs=2, progress=False, seed=0)
    assert vi.predict(x, 3, seed=0)["x"].shape == (3, 200, FEATURES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(nn.Linear(2, 3), 0), "latent_dim must be a positive integer; got 0"),
        (lambda: VAE(nn.Linear(2, 3), 2.0), "latent_dim must be a positive integer; got 2.0"),
        (lambda: VAE(lambda z: z, 2), "decoder must be an nn.Module from"),
        (lambda: VAE(nn.Linear(2, 3), 2, "gamma"), r"likelihood must be one of .*'bernoulli'.* got 'gamma'"),
        (lambda: VAE(nn.Linear(2, 3), 2, Poisson), "likelihood must be one of .* got <class"),
        (lambda: Normal(0.0), "scale must be a finite number above zero; got 0.0"),
        (lambda: Normal(math.nan), "scale must be a finite number above zero; got nan"),
    ],
)
def test_options_are_checked(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


# ---------------------------------------------------------------------------------------------- models apart


def test_two_models_share_nothing() -> None:
    """Both have a site "x" and a parameter "decoder.weight": one process, one after the other, and in turn."""

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


# ------------------------------------------------------------------------------- fits find what made the data


def _fit(x: Tensor, decoder: nn.Module, latents: int, likelihood: str | Likelihood, **options) -> avi.AmortizedVI:
    encoder = nn.Sequential(avi.encoders.MLP(x.shape[1], options.pop("hidden", [])))
    epochs = options["epochs"]
    return avi.AmortizedVI(VAE(decoder, latents, likelihood), encoder, "full").fit(
        x,
        lr_schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        progress=False,
        seed=0,
        **options,
    )


def test_the_learned_scale_is_that_of_the_noise() -> None:
    """Its maximum likelihood is known: the mean of the smallest eigenvalues (Tipping and Bishop, 1999)."""
    generator = torch.Generator().manual_seed(0)
    observations, features, latents, scale = 2000, 8, 2, 0.4
    W = torch.randn(features, latents, generator=generator)
    x = torch.randn(observations, latents, generator=generator) @ W.mT
    x = x + scale * torch.randn(observations, features, generator=generator)
    torch.manual_seed(0)
    decoder = nn.Linear(latents, features)
    vi = _fit(x, decoder, latents, "normal", epochs=40, lr=0.05)
    learned = float(vi.model.likelihood.log_scale.detach().exp())
    exact = float(torch.linalg.eigvalsh(torch.cov(x.mT, correction=0))[: features - latents].mean().sqrt())
    # The scale's own sampling error, from observations * (features - latents) squares of noise.
    assert abs(exact - scale) < 4 * scale / math.sqrt(2 * observations * (features - latents))
    assert learned == pytest.approx(exact, rel=0.02)


def test_a_scale_that_is_not_learned_stays() -> None:
    vi = _fit(torch.randn(100, 4), nn.Linear(2, 4), 2, Normal(0.7, learned=False), epochs=2, lr=0.1)
    assert float(vi.model.likelihood.log_scale.exp()) == pytest.approx(0.7)
    assert [name for name, _ in vi.model.named_parameters()] == ["decoder.weight", "decoder.bias"]


def test_a_poisson_fit_finds_the_rates() -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2000, 1, generator=generator)
    weight, bias = torch.linspace(-0.8, 0.8, 8), torch.linspace(0.0, 1.0, 8)
    x = torch.poisson((z * weight + bias).exp(), generator=generator)
    torch.manual_seed(0)
    decoder = nn.Linear(1, 8)
    _fit(x, decoder, 1, "poisson", hidden=[32], epochs=40, lr=0.02)
    found = decoder.weight.detach().squeeze(-1)
    assert (found * torch.sign(found @ weight) - weight).abs().max() < 0.1
    assert (decoder.bias.detach() - bias).abs().max() < 0.1


def test_a_categorical_fit_finds_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(2)
    entries, classes = 10, 3
    z = torch.randn(4000, 1, generator=generator)
    weight = 1.5 * torch.randn(entries, classes, generator=generator)
    weight = weight - weight.mean(-1, keepdim=True)
    bias = 0.5 * torch.randn(entries, classes, generator=generator)
    probabilities = (z.unsqueeze(-1) * weight + bias).softmax(-1)
    x = torch.multinomial(probabilities.reshape(-1, classes), 1, generator=generator).reshape(-1, entries)
    torch.manual_seed(0)
    decoder = nn.Linear(1, entries * classes)
    vi = _fit(x, decoder, 1, Categorical(), hidden=[32], epochs=40, lr=0.02)
    line = torch.tensor([[-1.0], [0.0], [1.0]])
    expected = (line.unsqueeze(-1) * weight + bias).softmax(-1)
    found = decoder.weight.detach().reshape(entries, classes)
    sign = torch.sign((found * weight).sum())  # a latent and its mirror image explain the data alike
    assert (vi.model.decode(sign * line) - expected).abs().max() < 0.06
