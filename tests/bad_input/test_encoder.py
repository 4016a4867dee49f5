"""Encoders that fail, or return something other than one context per observation."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, flatten, nn

from amortvi.errors import EncoderError, NotFittedError
from tests.bad_input.helpers import data, estimator, fit, refused


class Returns(nn.Module):
    """An encoder that returns what a function returns."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


SHAPE = ("floating-point context of shape (observations, features)",)
FAILED = ("the encoder Returns failed on x of shape (40, 3) and torch.float32",)
ENCODERS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {
    "flat": (flatten, (*SHAPE, "(120,)")),
    "three dimensions": (lambda x: x[:, None], (*SHAPE, "(40, 1, 3)", "nn.Flatten")),
    "integers": (lambda x: x.long(), (*SHAPE, "torch.int64")),
    "tuple": (lambda x: (x, x), (*SHAPE, "tuple", "single tensor")),
    "nothing": (lambda x: None, (*SHAPE, "NoneType")),
    "rows": (lambda x: x[::2], ("one row per observation", "40 observations", "(20, 3)")),
    "no features": (lambda x: x[:, :0], ("at least one feature", "(40, 0)")),
    "raises": (lambda x: x @ x, (*FAILED, "RuntimeError")),
    "raises a KeyError": (lambda x: {}["missing"], (*FAILED, "KeyError: 'missing'")),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_results_of_an_encoder(case: str) -> None:
    function, facts = ENCODERS[case]
    vi = estimator(encoder=Returns(function))
    with refused(EncoderError, *facts):
        fit(vi, data())
    with refused(NotFittedError, "fit or setup"):
        vi.posterior(data())


@pytest.mark.parametrize(
    ("encoder", "got"), [(lambda x: x, "function"), (nn.Linear, "the class Linear"), ("mlp", "str"), (3, "int")]
)
def test_encoders_that_are_not_modules(encoder: Any, got: str) -> None:
    with refused(EncoderError, "encoder must be an nn.Module", "forward", got):
        estimator(encoder=encoder)
