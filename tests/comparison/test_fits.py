"""Fits of several families: the same start for all, and nothing of the caller's touched."""

import copy
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import DataError, EncoderError, FamilyError, ModelError, OptionError
from amortvi.comparison.fits import FamilyFits

FAMILIES = ["diagonal", "low_rank", "full"]
X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, -0.5]]), scale=0.5).simulate(120, seed=0)
STANDING = {"epochs": 1, "lr": 1e-60, "progress": False}  # a step that is zero in single precision
SHORT = {"epochs": 2, "lr": 0.01, "progress": False}


def make_model() -> avi.models.VAE:
    torch.manual_seed(0)
    return avi.models.VAE(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)), 2, "normal")


def make_encoder(hidden: int = 8) -> avi.encoders.MLP:
    torch.manual_seed(1)
    return avi.encoders.MLP(3, [hidden])


def _state(module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def fits() -> FamilyFits:
    return avi.fit_families(make_model(), make_encoder(), FAMILIES, X, seeds=[3, 4], **SHORT)


# ------------------------------------------------------------------------------------------------ the fits


def test_fits_by_label_and_seed(fits: FamilyFits) -> None:
    assert list(fits) == FAMILIES
    assert len(fits) == 3
    assert [(fit.family, fit.seed) for fit in fits.fits] == [(family, seed) for family in FAMILIES for seed in (3, 4)]
    assert fits["full"] is fits.of("full")[0].vi
    assert [fit.seed for fit in fits.of("full")] == [3, 4]
    assert all(fit.vi.family == fit.family and fit.seconds > 0 for fit in fits.fits)
    assert "full" in fits
    with pytest.raises(KeyError, match="flow"):
        fits["flow"]


def test_a_fit_is_the_fit_that_one_would_do_alone() -> None:
    """What `AmortizedVI` does with a copy of model and encoder, and the seed."""
    fits = avi.fit_families(
        make_model(), make_encoder(), FAMILIES, X, seeds=[5], validation_data=X[:20], batch_size=50, **SHORT
    )
    for family in FAMILIES:
        alone = avi.AmortizedVI(make_model(), make_encoder(), family)
        alone.fit(X, seed=5, validation_data=X[:20], batch_size=50, **SHORT)
        assert _same(alone.guide.state_dict(), fits[family].guide.state_dict())
        assert _same(alone.model.state_dict(), fits[family].model.state_dict())
        pd.testing.assert_frame_equal(
            alone.history.drop(columns="seconds"), fits[family].history.drop(columns="seconds")
        )


def test_the_order_of_the_families_does_not_matter(fits: FamilyFits) -> None:
    turned = avi.fit_families(make_model(), make_encoder(), FAMILIES[::-1], X, seeds=[3, 4], **SHORT)
    assert list(turned) == FAMILIES[::-1]
    for family in FAMILIES:
        for one, two in zip(fits.of(family), turned.of(family), strict=True):
            assert _same(one.vi.guide.state_dict(), two.vi.guide.state_dict())
            assert _same(one.vi.model.state_dict(), two.vi.model.state_dict())


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(8)
    np.random.seed(8)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model, encoder = copy.deepcopy(make_model()), copy.deepcopy(make_encoder())
    torch.set_rng_state(before)
    fits = avi.fit_families(model, encoder, FAMILIES, X, seeds=[0, 1], **SHORT)
    avi.compare(fits, X, particles=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("freeze_model", [False, True])
def test_one_seed_is_one_start(freeze_model: bool) -> None:
    """Encoder, model and locations start equal for all families: the first seed at what is given, others elsewhere."""
    model, encoder = make_model(), make_encoder()
    fits = avi.fit_families(model, encoder, FAMILIES, X, seeds=[0, 1], freeze_model=freeze_model, **STANDING)
    starts = []
    for position in (0, 1):
        runs = [fits.of(family)[position].vi for family in FAMILIES]
        for vi in runs:
            assert _same(vi.encoder.state_dict(), runs[0].encoder.state_dict())
            assert _same(vi.model.state_dict(), runs[0].model.state_dict())
            for name in ("weight", "bias"):
                locations = [getattr(each.guide.family.head, name)[:2] for each in (vi, runs[0])]
                assert torch.equal(*locations)
                assert locations[0].abs().sum() > 0
            # A low-rank factor starts near zero, since at zero it would get no gradient.
            torch.testing.assert_close(vi.posterior(X).covariance, runs[0].posterior(X).covariance, atol=1e-3, rtol=0)
        starts.append(runs[0])
    first, second = starts
    assert _same(first.encoder.state_dict(), encoder.state_dict())
    assert _same(first.model.state_dict(), model.state_dict())
    assert not torch.equal(first.encoder.layers[0].weight, second.encoder.layers[0].weight)
    assert not torch.equal(first.guide.family.head.weight[:2], second.guide.family.head.weight[:2])
    assert torch.equal(first.model.decoder[0].weight, second.model.decoder[0].weight) == freeze_model


def test_what_is_not_to_be_trained_is_not_drawn_anew() -> None:
    """A pretrained part of an encoder is the same for every seed."""
    encoder = nn.Sequential(nn.Linear(3, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 4))
    fits = avi.fit_families(make_model(), encoder, ["diagonal"], X, seeds=[0, 1], **STANDING)
    one, two = (fit.vi.encoder for fit in fits.of("diagonal"))
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[2].weight, two[2].weight)


def test_joint_fits_touch_neither_the_given_modules_nor_one_another() -> None:
    model, encoder = make_model(), make_encoder()
    before = _state(model), _state(encoder)
    fits = avi.fit_families(model, encoder, FAMILIES, X, seeds=[0, 1], **SHORT)
    assert _same(model.state_dict(), before[0])
    assert _same(encoder.state_dict(), before[1])
    assert all(parameter.grad is None for module in (model, encoder) for parameter in module.parameters())
    given = {parameter.data_ptr() for module in (model, encoder) for parameter in module.parameters()}
    owned = [
        {parameter.data_ptr() for module in (fit.vi.model, fit.vi.guide) for parameter in module.parameters()}
        for fit in fits.fits
    ]
    for position, own in enumerate(owned):
        assert not own & given
        assert not any(own & other for other in owned[:position])
        assert not _same(fits.fits[position].vi.model.state_dict(), before[0])
    # Going on with one leaves the others where they are.
    others = _state(fits["diagonal"].model)
    fits["full"].fit(X, seed=0, **SHORT)
    assert _same(fits["diagonal"].model.state_dict(), others)


def test_what_model_and_encoder_share_stays_shared_in_each_copy() -> None:
    """Tied weights: the encoder is the decoder's transpose."""

    class Transposed(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.linear.weight

    decoder = nn.Linear(2, 3)
    fits = avi.fit_families(
        avi.models.VAE(decoder, 2, "normal"), Transposed(decoder), FAMILIES, X, seeds=[0, 1], **SHORT
    )
    for fit in fits.fits:
        assert fit.vi.encoder.linear is fit.vi.model.decoder
        assert fit.vi.model.decoder is not decoder


def test_a_frozen_model_is_one_object_and_unchanged() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
    model, encoder = avi.models.VAE(decoder, 2, "normal"), make_encoder()
    before = _state(model), _state(encoder)
    fits = avi.fit_families(model, encoder, FAMILIES, X, seeds=[0, 1], freeze_model=True, **SHORT)
    assert all(fit.vi.model is model and fit.vi.freeze_model for fit in fits.fits)
    assert _same(model.state_dict(), before[0])
    assert _same(encoder.state_dict(), before[1])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    encoders = {id(fit.vi.encoder) for fit in fits.fits}
    assert len(encoders) == 6
    assert id(encoder) not in encoders
    avi.compare(fits, X, particles=3)
    assert _same(model.state_dict(), before[0])


def test_a_model_that_was_fitted_can_be_frozen(fits: FamilyFits) -> None:
    trained = fits["diagonal"].model
    before = _state(trained)
    frozen = avi.fit_families(trained, make_encoder(), ["diagonal", "full"], X, freeze_model=True, **SHORT)
    assert _same(trained.state_dict(), before)
    assert frozen["full"].model is trained


# ---------------------------------------------------------------------------------- functions as models


def _with_param(x: Tensor) -> None:
    weight = pyro.param("weight", lambda: torch.randn(2, 3))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight, scale).to_event(1), obs=x)


def test_functions_with_parameters_of_their_own() -> None:
    store = dict(pyro.get_param_store().items())
    standing = avi.fit_families(_with_param, make_encoder(), FAMILIES, X, seeds=[0, 1], **STANDING)
    for position in (0, 1):
        runs = [standing.of(family)[position].vi.model for family in FAMILIES]
        assert all(_same(run.state_dict(), runs[0].state_dict()) for run in runs)
    first, second = (fit.vi.model.state_dict() for fit in standing.of("full"))
    assert not _same(first, second)  # drawn anew by the function itself
    fits = avi.fit_families(_with_param, make_encoder(), FAMILIES, X, seeds=[0, 1], **SHORT)
    owned = [{parameter.data_ptr() for parameter in fit.vi.model.parameters()} for fit in fits.fits]
    assert all(len(own) == 2 and not any(own & other for other in owned[:i]) for i, own in enumerate(owned))
    assert not _same(fits["full"].model.state_dict(), fits["diagonal"].model.state_dict())
    assert dict(pyro.get_param_store().items()) == store
    table = avi.compare(fits, X, particles=3)
    assert np.isfinite(table.drop(columns=["seed_sd", "verdict"])).all(axis=None)
    # The parameters that one fit found are frozen for others, and further fits of copies start from them.
    found = fits["full"].model
    before = _state(found)
    frozen = avi.fit_families(found, make_encoder(), ["diagonal", "full"], X, freeze_model=True, **SHORT)
    assert frozen["full"].model is frozen["diagonal"].model is found
    started = avi.fit_families(found, make_encoder(), ["diagonal"], X, **STANDING)
    assert _same(started["diagonal"].model.state_dict(), before)
    assert _same(found.state_dict(), before)


def test_frozen_functions_share_their_parameters() -> None:
    fits = avi.fit_families(_with_param, make_encoder(), FAMILIES, X, seeds=[0, 1], freeze_model=True, **SHORT)
    assert len({id(fit.vi.model) for fit in fits.fits}) == 1


def test_pyro_modules_with_constraints() -> None:
    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = PyroParam(torch.ones(2, 3))
            self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ self.weight, self.scale).to_event(1), obs=x)

    model = Model()
    before = _state(model)
    fits = avi.fit_families(model, make_encoder(), ["diagonal", "full"], X, **SHORT)
    assert _same(model.state_dict(), before)
    assert not _same(fits["diagonal"].model.state_dict(), fits["full"].model.state_dict())
    assert float(fits["full"].model.scale.detach()) != 1


def test_bound_methods_are_copied_with_their_module() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(2, 3)

        def model(self, x: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    holder = Holder()
    before = _state(holder)
    fits = avi.fit_families(holder.model, make_encoder(), ["diagonal", "full"], X, **SHORT)
    assert _same(holder.state_dict(), before)
    assert not _same(fits["diagonal"].model.state_dict(), fits["full"].model.state_dict())


@pytest.mark.parametrize("has_run", [False, True])
def test_functions_with_modules_around_them_cannot_be_copied(has_run: bool) -> None:
    """Each "copy" would go on training the one module; as a frozen model it is fine."""
    decoder = nn.Linear(2, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    given = avi.AmortizedVI(model, make_encoder()).fit(X, **SHORT).model if has_run else model
    before = _state(decoder)
    with pytest.raises(ModelError, match=r"modules from outside with pyro.module.*as a PyroModule.*freeze_model=True"):
        avi.fit_families(given, make_encoder(), ["diagonal", "full"], X, **SHORT)
    assert _same(decoder.state_dict(), before)
    frozen = avi.fit_families(given, make_encoder(), ["diagonal", "full"], X, freeze_model=True, **SHORT)
    assert _same(decoder.state_dict(), before)
    assert frozen["full"].model is frozen["diagonal"].model


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"families": ["diagonal", "full", "flow"]}, FamilyError, "family must be one of .* got 'flow'"),
        ({"families": ["diagonal", 3]}, FamilyError, "family must be one of .* got 3"),
        (
            {"families": ["diagonal", avi.families.LowRank(5)]},
            FamilyError,
            "rank",
        ),
        ({"families": ["diagonal", lambda dim, context: None]}, FamilyError, "must return a families.Family"),
        ({"families": []}, OptionError, r"families must be one or several with different labels; got \[\]"),
        (
            {"families": ["full", "diagonal", "full"]},
            OptionError,
            r"different labels; got \['full', 'diagonal', 'full'\]",
        ),
        ({"families": "full"}, OptionError, r"families must be a list of families, .* got 'full'"),
        ({"families": None}, OptionError, "families must be a list of families, .* got None"),
        ({"seeds": []}, OptionError, r"seeds must be at least one integer, each of them once; got \[\]"),
        ({"seeds": [1, 2, 1]}, OptionError, r"each of them once; got \[1, 2, 1\]"),
        ({"seeds": [0, None]}, OptionError, r"at least one integer, each of them once; got \[0, None\]"),
        ({"seeds": [0, -1]}, OptionError, r"seed must be an integer from 0 to .*; got -1"),
        ({"seeds": 3}, OptionError, r"seeds must be a list of integers, such as \[0, 1\]; got 3"),
        ({"x": X * math.nan}, DataError, "NaN"),
        ({"plate": "other"}, ModelError, "other"),
        ({"model": 3}, ModelError, "callable"),
        ({"encoder": lambda x: x}, EncoderError, "encoder must be an nn.Module"),
        ({"dtype": torch.int64}, OptionError, "dtype must be a floating type"),
        ({"device": "abacus"}, OptionError, "device='abacus' cannot be used"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_fit(options, error, message, monkeypatch) -> None:
    def fit(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("a fit was done")

    monkeypatch.setattr(avi.AmortizedVI, "fit", fit)
    arguments = {"model": make_model(), "encoder": make_encoder(), "families": ["diagonal", "full"], "x": X} | options
    with pytest.raises(error, match=message):
        avi.fit_families(**arguments)


def test_families_of_ones_own_are_labelled() -> None:
    fits = avi.fit_families(
        make_model(), make_encoder(), ["full", avi.families.FullCovariance, avi.families.LowRank(1)], X, **STANDING
    )
    assert list(fits)[:2] == ["full", "FullCovariance"]
    assert "LowRank" in list(fits)[2]
    assert "1" in list(fits)[2]


def test_observations_of_every_kind() -> None:
    frame = pd.DataFrame(X.numpy(), columns=["a", "b", "c"])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=40)
    tables = []
    for data in (X, X.numpy(), frame, (X,), {"x": X}, loader):
        options = SHORT | ({} if data is loader else {"batch_size": 40})
        fits = avi.fit_families(make_model(), make_encoder(), ["diagonal", "full"], data, **options)
        tables.append(avi.compare(fits, data, particles=3).drop(columns="seconds"))
    for table in tables[:-1]:
        pd.testing.assert_frame_equal(table, tables[0])
    # A loader has an order of its own.
    assert list(tables[-1].columns) == list(tables[0].columns)


def test_double_precision() -> None:
    model, encoder = make_model(), make_encoder()
    fits = avi.fit_families(model, encoder, ["diagonal", "full"], X.double(), dtype=torch.float64, **SHORT)
    assert all(vi.dtype == torch.float64 for vi in fits.values())
    assert {parameter.dtype for module in (model, encoder) for parameter in module.parameters()} == {torch.float32}
