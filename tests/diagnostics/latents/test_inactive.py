"""The warning about inactive latents: issued for latents that training has left unused, and only for those."""

import warnings

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.data import as_observations
from amortvi.diagnostics.latents import warn_of_inactive_latents
from amortvi.errors import AmortviWarning
from tests.exact import Fixed

DATA = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))


class OneUnused(PyroModule):
    """A model with a parameter and two latents. The second latent does not affect the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(self.weight * z[..., :1], 0.5).to_event(1), obs=x)


class Encoder(nn.Module):
    """Returns a varying mean for the first latent, and for the second ``second`` times ``x``; by default the prior."""

    def __init__(self, second: float = 0.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.stack([self.gain * x.sum(-1), self.second * x[:, 0]], dim=-1)
        return torch.cat([mean, torch.tensor([-1.0, 0.0]).expand_as(mean)], dim=-1)


def fitted(model, encoder, *, freeze_model=False) -> avi.AmortizedVI:
    """Return an estimator after one epoch that does not change its parameters."""
    vi = avi.AmortizedVI(model, encoder, avi.families.Diagonal(head=False), freeze_model=freeze_model)
    return vi.fit(DATA, epochs=1, lr=1e-30, progress=False, seed=0)


def check(vi: avi.AmortizedVI, x=DATA, batch_size: int | None = 1) -> None:
    """Call the hook as after one epoch of ``x`` in batches of ``batch_size``: by default 600 steps."""
    warn_of_inactive_latents(vi, as_observations(x, vi.dtype), avi.FitOptions(batch_size=batch_size))


def one_by_one() -> DataLoader:
    return DataLoader(TensorDataset(DATA), batch_size=1, shuffle=True)


@pytest.mark.parametrize(
    ("form", "batch_size"), [(lambda: DATA, 1), (lambda: TensorDataset(DATA), 1), (one_by_one, None)]
)
def test_inactive_latent_is_reported(form, batch_size):
    with pytest.warns(AmortviWarning, match=r"1 of 2 latent dimensions are inactive: z\[1\]\. .*kl_weight"):
        check(fitted(OneUnused(), Encoder()), form(), batch_size)


def test_only_the_first_inactive_latents_are_listed():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), torch.ones(20)).to_event(1))
            pyro.sample("x", dist.Normal(0 * z[..., :2], scale.abs()).to_event(1), obs=x)

    with pytest.warns(AmortviWarning, match=r"20 of 20 .* z\[7\] and 12 more\. Their"):
        check(fitted(model, Fixed(torch.zeros(1, 40))))


def new_network() -> avi.AmortizedVI:
    decoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    vi = avi.AmortizedVI(avi.models.VAE(decoder, 8, "normal"), avi.encoders.MLP(2, [16]))
    return vi.fit(DATA, epochs=1, lr=1e-30, progress=False, seed=0)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: fitted(OneUnused(), Encoder(second=0.5)), id="all latents are active"),
        pytest.param(lambda: fitted(OneUnused(), Encoder(), freeze_model=True), id="the model is frozen"),
        pytest.param(
            lambda: fitted(avi.models.LinearGaussian(torch.eye(2), scale=1.0), Encoder()),
            id="the model has no parameters",
        ),
        pytest.param(new_network, id="the network is new"),
    ],
)
def test_no_warning_without_reason(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make())


def test_short_fit_is_not_checked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(fitted(OneUnused(), Encoder()), batch_size=128)


def test_random_state_is_untouched():
    vi = fitted(OneUnused(), Encoder(second=0.5))
    state = torch.get_rng_state()
    check(vi)
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_in_which_a_latent_collapses_issues_the_warning(monkeypatch):
    # amortvi installs the hook behind a function that imports it, which counts for the line that a warning points to.
    monkeypatch.setattr(avi.AmortizedVI, "after_fit", [lambda *fit: warn_of_inactive_latents(*fit)])
    vi = avi.AmortizedVI(OneUnused(), avi.encoders.MLP(2, []))
    with pytest.warns(AmortviWarning, match=r"1 of 2 latent dimensions are inactive: z\[1\]") as caught:
        vi.fit(DATA, epochs=100, lr=0.03, batch_size=100, progress=False, seed=0)
    assert caught[0].filename == __file__
