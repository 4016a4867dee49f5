"""Encoders in an estimator: any module works, and its failures are reported with the shapes of its arguments."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.encoders import MLP, Conv
from amortvi.errors import EncoderError

LATENTS = 3


def _images() -> Tensor:
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def _vae() -> avi.models.VAE:
    return avi.models.VAE(nn.Linear(LATENTS, 64), LATENTS)


def test_an_encoder_can_return_location_and_log_scale() -> None:
    """Without a head, the output of the encoder consists of the parameters of the posterior."""
    encoder, x = Conv(8, out_features=2 * LATENTS, channels=(4, 8)), _images()
    vi = avi.AmortizedVI(_vae(), encoder, avi.families.Diagonal(head=False)).setup(x, seed=0)
    posterior = vi.posterior(x)
    loc, log_scale = encoder(x).detach().chunk(2, dim=-1)
    torch.testing.assert_close(posterior.mean["z"], loc)
    torch.testing.assert_close(posterior.std["z"], log_scale.exp())
    assert list(vi.guide.family.parameters()) == []


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (MLP(63, [4]), r"encoder MLP failed on .*\(40, 1, 8, 8\).*in_features=63 elements per observation; got 64"),
        (Conv(9), r"encoder Conv failed on .*images of shape \(81,\) or \(9, 9\) or \(1, 9, 9\); got \(1, 8, 8\)"),
        (nn.Linear(64, 4), r"encoder Linear failed on .*RuntimeError: mat1 and mat2 shapes"),
    ],
    ids=["MLP", "Conv", "Linear"],
)
def test_failures_are_encoder_errors(encoder: nn.Module, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        avi.AmortizedVI(_vae(), encoder).setup(_images())


def test_any_module_can_be_an_encoder() -> None:
    """A recurrent network with a frozen layer and batch normalization."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.GRU(8, 6, batch_first=True)
            self.fixed = nn.Linear(6, 6).requires_grad_(False)
            self.normal = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.normal(self.fixed(self.rows(x.squeeze(1))[1][0]))

    torch.manual_seed(0)
    encoder = Recurrent()
    fixed = encoder.fixed.weight.clone()
    vi = avi.AmortizedVI(_vae(), encoder, "full").fit(_images(), epochs=3, seed=0, progress=False)
    assert torch.equal(encoder.fixed.weight, fixed)
    assert encoder.normal.num_batches_tracked == 3
    assert np.isfinite(vi.evaluate(_images(), particles=2)["elbo"]).all()


def test_a_lazy_encoder_infers_its_sizes() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Tanh())
    vi = avi.AmortizedVI(_vae(), encoder).setup(_images(), seed=0)
    assert encoder[1].weight.shape == (8, 64)
    assert vi.posterior(_images()).mean["z"].shape == (40, LATENTS)
