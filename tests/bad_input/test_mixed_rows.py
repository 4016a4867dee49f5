"""Models and encoders whose result for a row depends on the other rows of its batch."""

import random
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional as F

import amortvi as avi
from amortvi.errors import EncoderError, ModelError
from tests.bad_input.helpers import FEATURES, LATENTS, data, decoded, estimator, fit, observe, prior, refused

Function = Callable[[Tensor], Tensor]
WIDTH = 6


def in_training_mode(layer: nn.Module) -> Function:
    return lambda x: layer.train()(x)


def attention(*, batch_first: bool) -> Function:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=batch_first)
    widen = nn.Linear(FEATURES, WIDTH)
    # One token per row: with batch_first=False, the rows of the batch are the sequence.
    return lambda x: layer(widen(x).unsqueeze(1)).squeeze(1)


def recurrent(*, batch_first: bool) -> Function:
    layer = nn.GRU(FEATURES, WIDTH, batch_first=batch_first)
    return lambda x: layer(x.unsqueeze(1))[0].squeeze(1)


MIXING: dict[str, Callable[[], Function]] = {
    "mean": lambda: lambda x: x - x.mean(0),
    "standardization": lambda: lambda x: (x - x.mean(0)) / x.std(0),
    "largest": lambda: lambda x: x / x.abs().amax(),
    "softmax": lambda: lambda x: x.softmax(0),
    "cumulative sum": lambda: lambda x: x.cumsum(0),
    "cumulative sum from the end": lambda: lambda x: x.flip(0).cumsum(0).flip(0),
    "sorted": lambda: lambda x: x.sort(0).values,
    "ranks": lambda: lambda x: x.argsort(0).argsort(0).to(x),
    "previous row": lambda: lambda x: x - x.roll(1, 0),
    "first row": lambda: lambda x: x - x[:1],
    "last row": lambda: lambda x: x - x[-1:],
    "position": lambda: lambda x: x + torch.arange(len(x)).unsqueeze(1),
    "size of the batch": lambda: lambda x: x * len(x),
    "distances": lambda: lambda x: x * torch.cdist(x, x).mean(1, keepdim=True),
    "layer normalization": lambda: lambda x: F.layer_norm(x, x.shape),
    "reshaped": lambda: lambda x: x.reshape(FEATURES, -1).mT,
    "batch statistics": lambda: lambda x: F.batch_norm(x, None, None, training=True),
    "normalization without running statistics": lambda: nn.BatchNorm1d(FEATURES, track_running_stats=False).__call__,
    "normalization in training mode": lambda: in_training_mode(nn.BatchNorm1d(FEATURES)),
    "attention": lambda: attention(batch_first=False),
    "recurrence": lambda: recurrent(batch_first=False),
}

SEPARATE: dict[str, Callable[[], Function]] = {
    "softmax": lambda: lambda x: x.softmax(-1),
    "layer normalization": lambda: lambda x: F.layer_norm(x, x.shape[1:]),
    "normalization in evaluation mode": lambda: in_evaluation_mode(nn.BatchNorm1d(FEATURES)),
    "attention": lambda: attention(batch_first=True),
    "recurrence": lambda: recurrent(batch_first=True),
    "noise": lambda: lambda x: x + torch.randn_like(x),
    "noise of Python": lambda: lambda x: x * random.random(),
    "noise that rows share": lambda: lambda x: x * torch.rand(()),
    "dropout": lambda: lambda x: F.dropout(x, 0.5, training=True),
    "rounding": lambda: cancellation(nn.Linear(FEATURES, WIDTH)),
    "constant": lambda: torch.zeros_like,
    "half precision": lambda: lambda x: x.half().float() @ torch.ones(FEATURES, WIDTH),
    "infinite": lambda: lambda x: torch.where(x > 0, torch.inf, x),
}


def in_evaluation_mode(layer: nn.Module) -> Function:
    return lambda x: layer.eval()(x)


def cancellation(layer: nn.Module) -> Function:
    """Return a function whose result is mostly rounding."""
    return lambda x: layer(1e6 * x) - 1e6 * layer(x)


class Encoder(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.function(x)


def seeded(make: Callable[[], Function]) -> Function:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.mark.parametrize("rows", [3, 40, 200])
@pytest.mark.parametrize("case", MIXING)
def test_encoders(case: str, rows: int) -> None:
    vi = estimator(encoder=Encoder(seeded(MIXING[case])))
    with refused(
        EncoderError,
        "the encoder Encoder mixes the rows",
        "in a batch of",
        "without the other rows",
        "batch_first=True",
    ):
        vi.setup(data(rows), seed=0)


def test_double_precision() -> None:
    x = data().double()
    with refused(EncoderError, "mixes the rows"):
        estimator(encoder=Encoder(seeded(MIXING["mean"]))).to(dtype=x.dtype).setup(x, seed=0)
    estimator(encoder=Encoder(seeded(SEPARATE["softmax"]))).to(dtype=x.dtype).setup(x, seed=0)


def test_two_observations_are_enough() -> None:
    for case in ("mean", "softmax", "cumulative sum", "batch statistics", "attention"):
        with refused(EncoderError, "mixes the rows"):
            estimator(encoder=Encoder(seeded(MIXING[case]))).setup(data(2), seed=0)


@pytest.mark.parametrize("case", SEPARATE)
def test_encoders_that_do_not_mix_rows(case: str) -> None:
    for rows in (1, 2, 40):
        estimator(encoder=Encoder(seeded(SEPARATE[case]))).setup(data(rows), seed=0)


class Lengths(nn.Module):
    """A recurrent encoder of sequences of different lengths, which it cuts after the longest of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(1, WIDTH, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inputs = x[:, : int(lengths.max())].unsqueeze(-1)
        packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        return self.layer(packed)[1][0]


def test_an_encoder_of_sequences_of_different_lengths() -> None:
    def model(x: Tensor, lengths: Tensor) -> None:
        seen = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
        with pyro.plate("data", x.shape[0], dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("time", x.shape[1], dim=-1), poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, lengths = data(40, 7), torch.arange(40) % 7 + 1
    with torch.random.fork_rng():
        vi = avi.AmortizedVI(model, Lengths())
    assert len(fit(vi, (x, lengths)).history) == 1


def decoding(make: Callable[[], Function]) -> Callable[[Tensor], None]:
    """Return a model whose latents pass through a function of all rows."""
    function = seeded(make)

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior(FEATURES))
            pyro.sample("x", dist.Normal(function(z)[:, :FEATURES], 0.5).to_event(1), obs=x)

    return model


def test_a_decoder_that_mixes_rows_and_adds_noise() -> None:
    with refused(ModelError, "the model mixes the rows", "site 'x'"):
        estimator(decoding(lambda: lambda z: z.mean(0) + torch.randn_like(z))).setup(data(), seed=0)


@pytest.mark.parametrize("case", MIXING)
def test_decoders(case: str) -> None:
    facts = (
        "the model mixes the rows",
        "same latents",
        "log-probability of site 'x'",
        "in a batch of",
        "without the other rows",
    )
    with refused(ModelError, *facts, "batch_first=True"):
        estimator(decoding(MIXING[case])).setup(data(), seed=0)


@pytest.mark.parametrize("case", [case for case in SEPARATE if case != "infinite"])
def test_decoders_that_do_not_mix_rows(case: str) -> None:
    estimator(decoding(SEPARATE[case])).setup(data(), seed=0)


def model_with(
    make_prior: Callable[[Tensor], Any] = lambda x: prior(),
    inside: Callable[[Tensor, Tensor], None] = lambda z, x: None,
    outside: Callable[[Tensor, Tensor], None] = lambda z, x: None,
    scale: Callable[[Tensor], Any] = lambda x: 1.0,
) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]), poutine.scale(scale=scale(x)):
            z = pyro.sample("z", make_prior(x))
            inside(z, x)
            observe(z, x)
        outside(z, x)

    return model


MODELS: dict[str, tuple[Callable[[Tensor], None], tuple[str, ...]]] = {
    "a prior from the batch": (
        model_with(lambda x: dist.Normal(x.mean(0)[:LATENTS].expand(len(x), LATENTS), 1.0).to_event(1)),
        ("site 'z'",),
    ),
    "a factor of the batch": (
        model_with(inside=lambda z, x: pyro.factor("penalty", -(z - z.mean(0)).square().sum(-1))),
        ("site 'penalty'",),
    ),
    "weights from the size of the batch": (model_with(scale=lambda x: 1 / len(x)), ("site 'z'",)),
    "a factor outside the plate": (
        model_with(outside=lambda z, x: pyro.factor("penalty", -z.square().sum())),
        ("site 'penalty' is outside plate 'data'", "depends on the rows", "with one value for each row"),
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_models(case: str) -> None:
    model, facts = MODELS[case]
    vi = estimator(model)
    for call in (lambda: fit(vi, data()), lambda: vi.setup(data(), seed=0)):
        with refused(ModelError, *facts):
            call()
    with refused(ModelError, *facts), torch.random.fork_rng():
        avi.AmortizedGuide(model, avi.encoders.MLP(FEATURES, [4])).setup(data())


def reported(z: Tensor, x: Tensor) -> None:
    pyro.deterministic("average", decoded(z).mean(0).expand(len(x), -1), event_dim=1)


def shared_noise(x: Tensor) -> None:
    """Each call observes other columns."""
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", FEATURES, subsample_size=1, dim=-1) as columns:
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, columns])


ACCEPTED: dict[str, Callable[[Tensor], None]] = {
    "weights of rows": model_with(scale=lambda x: x[:, 0].exp()),
    "a global term with the weight of the batch": model_with(
        outside=lambda z, x: pyro.factor("decay", -torch.tensor(len(x) / 400.0))
    ),
    "a heavy tail": model_with(lambda x: dist.Cauchy(torch.zeros(LATENTS), 1e6).to_event(1)),
    "random columns": shared_noise,
    "a statistic of the batch that is only reported": model_with(inside=reported),
}


@pytest.mark.parametrize("case", ACCEPTED)
@pytest.mark.parametrize("seed", range(3))
def test_models_that_do_not_mix_rows(case: str, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = torch.randn(40, FEATURES)
    estimator(ACCEPTED[case]).setup(x, seed=seed)


def test_large_counts_are_not_refused_for_rounding() -> None:
    """The density of a count of a million has a rounding error of a nat in single precision."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior(1))
            pyro.sample("x", dist.Poisson(1e6 * (1 + 1e-3 * z).expand(-1, FEATURES)).to_event(1), obs=x)

    estimator(model).setup((1e6 + 1e3 * data()).round(), seed=0)
