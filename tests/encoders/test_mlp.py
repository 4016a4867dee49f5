"""The multilayer perceptron: shapes, types and options."""

import pytest
import torch
from torch import nn

from amortvi.encoders import MLP
from amortvi.errors import OptionError


@pytest.mark.parametrize("shape", [(5, 64), (5, 8, 8), (5, 1, 8, 8)])
@pytest.mark.parametrize(("hidden", "features"), [([32, 16], 16), ([7], 7), ([], 64)])
def test_shapes(shape: tuple[int, ...], hidden: list[int], features: int) -> None:
    encoder = MLP(64, hidden)
    assert encoder(torch.randn(shape)).shape == (5, features)
    assert encoder.out_features == features
    assert encoder.in_features == 64


def test_output_is_the_composition_of_the_layers() -> None:
    encoder = MLP(4, [3, 2], activation=nn.Tanh)
    first, second = (layer for layer in encoder.layers if isinstance(layer, nn.Linear))
    x = torch.randn(5, 2, 2)
    torch.testing.assert_close(encoder(x), second(first(x.flatten(1)).tanh()).tanh())


def test_without_layers_the_context_is_the_observation() -> None:
    x = torch.randn(5, 2, 3)
    assert torch.equal(MLP(6, [])(x), x.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_integers_are_cast(kind: torch.dtype, dtype: torch.dtype) -> None:
    encoder = MLP(3, [4]).to(dtype)
    x = torch.tensor([[1, 0, 1], [0, 0, 1]]).to(kind)
    context = encoder(x)
    assert context.dtype == dtype
    torch.testing.assert_close(context, encoder(x.to(dtype)))
    assert MLP(3, [])(x).dtype == torch.float32


def test_several_arguments_are_concatenated() -> None:
    encoder = MLP(2 * 3 + 1 + 4, [5])
    image, label, covariates = torch.randn(6, 2, 3), torch.arange(6), torch.randn(6, 4)
    row = torch.cat([image.flatten(1), label.float().unsqueeze(1), covariates], dim=1)
    torch.testing.assert_close(encoder(image, label, covariates), encoder(row))
    torch.testing.assert_close(encoder(image, label, covariates=covariates), encoder(row))
    torch.testing.assert_close(encoder(image=image, label=label, covariates=covariates), encoder(row))


def test_dropout_is_active_in_training_only() -> None:
    encoder = MLP(8, [100, 100], dropout=0.5)
    assert sum(isinstance(layer, nn.Dropout) for layer in encoder.layers) == 2
    x = torch.randn(3, 8)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "in_features must be a positive integer; got 0"),
        ((4, [8, 0]), {}, "each width in hidden must be a positive integer; got 0"),
        ((4, 8), {}, r"hidden must be a sequence of widths, one per layer, such as \[8\]; got 8"),
        ((4, [8]), {"dropout": 1.0}, "dropout must be a probability below 1; got 1.0"),
        ((4, [8]), {"dropout": -0.1}, "dropout must be a probability below 1; got -0.1"),
    ],
)
def test_options_are_checked(arguments, options, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MLP(*arguments, **options)


def test_a_wrong_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in_features=4 .*; got 7, .* shape \[\(5, 4\), \(5, 3\)\]"):
        MLP(4, [2])(torch.zeros(5, 4), torch.zeros(5, 3))
