"""Fits of several families: all start alike, and the given model and encoder stay unchanged."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.comparison import FamilyFits, compare, fit_families
from amortvi.errors import AmortviError, DataError, EncoderError, FamilyError, ModelError, OptionError
from tests.comparison.conftest import FAMILIES, SHORT, UNCHANGED, X, make_encoder, make_model, with_param


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_fits_by_label_and_seed(fits: FamilyFits) -> None:
    assert (list(fits), len(fits)) == (FAMILIES, 3)
    assert [(fit.family, fit.seed) for fit in fits.fits] == [(family, seed) for family in FAMILIES for seed in (3, 4)]
    assert fits["full"] is fits.of("full")[0].vi
    assert all(fit.vi.family == fit.family and fit.seconds > 0 for fit in fits.fits)
    with pytest.raises(KeyError, match="flow"):
        fits["flow"]


def test_each_fit_is_that_of_an_estimator_of_its_own_in_any_order() -> None:
    options = {"validation_data": X[:20], "batch_size": 50, **SHORT}
    fits = fit_families(make_model(), make_encoder(), FAMILIES[::-1], X, seeds=[5], **options)
    assert list(fits) == FAMILIES[::-1]
    for family in FAMILIES:
        alone = avi.AmortizedVI(make_model(), make_encoder(), family).fit(X, seed=5, **options)
        assert equal(alone.guide.state_dict(), fits[family].guide.state_dict())
        assert equal(alone.model.state_dict(), fits[family].model.state_dict())
        one, two = (vi.history.drop(columns="seconds") for vi in (alone, fits[family]))
        pd.testing.assert_frame_equal(one, two)


@pytest.mark.filterwarnings("ignore:the evidence of .* may be nats too low")
def test_the_random_state_is_left_untouched() -> None:
    model, encoder = make_model(), make_encoder()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    compare(fit_families(model, encoder, ["diagonal"], X, seeds=[0, 1], **SHORT), X, particles=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("freeze_model", [False, True])
def test_all_families_start_alike_for_one_seed(freeze_model: bool) -> None:
    """The first seed starts at the given parameters, the others at new ones; a frozen model stays as it is."""
    model, encoder = make_model(), make_encoder()
    fits = fit_families(model, encoder, FAMILIES, X, seeds=[0, 1], freeze_model=freeze_model, **UNCHANGED)
    starts = []
    for position in (0, 1):
        runs = [fits.of(family)[position].vi for family in FAMILIES]
        for vi in runs:
            assert equal(vi.encoder.state_dict(), runs[0].encoder.state_dict())
            assert equal(vi.model.state_dict(), runs[0].model.state_dict())
            heads = [each.guide.family.to_parameters for each in (vi, runs[0])]
            assert torch.equal(heads[0].weight[:2], heads[1].weight[:2])
            assert torch.equal(heads[0].bias[:2], heads[1].bias[:2])
            # A low-rank factor starts close to zero, but not at zero, where it would have no gradient.
            torch.testing.assert_close(vi.posterior(X).covariance, runs[0].posterior(X).covariance, atol=0.01, rtol=0)
        starts.append(runs[0])
    first, second = starts
    assert equal(first.encoder.state_dict(), encoder.state_dict())
    assert equal(first.model.state_dict(), model.state_dict())
    assert not torch.equal(first.encoder.layers[0].weight, second.encoder.layers[0].weight)
    assert not torch.equal(first.guide.family.to_parameters.weight[:2], second.guide.family.to_parameters.weight[:2])
    assert torch.equal(first.model.decoder[0].weight, second.model.decoder[0].weight) == freeze_model


def test_untrained_parts_are_not_reset() -> None:
    encoder = nn.Sequential(nn.Linear(3, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 4))
    fits = fit_families(make_model(), encoder, ["diagonal"], X, seeds=[0, 1], **UNCHANGED)
    one, two = (fit.vi.encoder for fit in fits.of("diagonal"))
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[2].weight, two[2].weight)


def test_each_fit_trains_copies_of_its_own() -> None:
    model, encoder = make_model(), make_encoder()
    before = copied_state(model), copied_state(encoder)
    fits = fit_families(model, encoder, FAMILIES[:2], X, seeds=[0, 1], **SHORT)
    assert equal(model.state_dict(), before[0])
    assert equal(encoder.state_dict(), before[1])
    assert all(parameter.grad is None for module in (model, encoder) for parameter in module.parameters())
    modules = [model, encoder, *(module for fit in fits.fits for module in (fit.vi.model, fit.vi.guide))]
    addresses = [parameter.data_ptr() for module in modules for parameter in module.parameters()]
    assert len(set(addresses)) == len(addresses)
    assert not any(equal(fit.vi.model.state_dict(), before[0]) for fit in fits.fits)


def test_parameters_shared_by_model_and_encoder_stay_shared() -> None:
    class Transposed(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.linear.weight

    decoder = nn.Linear(2, 3)
    model = avi.models.VAE(decoder, 2, "normal")
    fits = fit_families(model, Transposed(decoder), ["diagonal"], X, seeds=[0, 1], **SHORT)
    for fit in fits.fits:
        assert fit.vi.encoder.linear is fit.vi.model.decoder
        assert fit.vi.model.decoder is not decoder


def test_a_frozen_model_is_shared_and_unchanged() -> None:
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
    model, encoder = avi.models.VAE(decoder, 2, "normal"), make_encoder()
    before = copied_state(model), copied_state(encoder)
    fits = fit_families(model, encoder, ["diagonal", "full"], X, seeds=[0, 1], freeze_model=True, **SHORT)
    assert all(fit.vi.model is model and fit.vi.freeze_model for fit in fits.fits)
    assert len({id(fit.vi.encoder) for fit in fits.fits} | {id(encoder)}) == 5
    assert compare(fits, X, particles=3)["score"].iloc[0] == "elbo"
    assert equal(model.state_dict(), before[0])
    assert equal(encoder.state_dict(), before[1])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("make", [make_model, lambda: with_param], ids=["module", "function"])
def test_fitted_models_can_be_frozen_or_copied(make: Callable[[], Callable[..., None]]) -> None:
    fitted = avi.AmortizedVI(make(), make_encoder()).fit(X, **SHORT).model
    before = copied_state(fitted)
    frozen = fit_families(fitted, make_encoder(), ["diagonal", "full"], X, freeze_model=True, **SHORT)
    assert frozen["full"].model is frozen["diagonal"].model is fitted
    copied = fit_families(fitted, make_encoder(), ["diagonal"], X, **UNCHANGED)
    assert equal(copied["diagonal"].model.state_dict(), before)
    assert equal(fitted.state_dict(), before)


def test_functions_own_their_parameters_in_each_fit() -> None:
    store, families = dict(pyro.get_param_store().items()), FAMILIES[::2]
    starts = fit_families(with_param, make_encoder(), families, X, seeds=[0, 1], **UNCHANGED)
    first, second = ([starts.of(family)[seed].vi.model.state_dict() for family in families] for seed in (0, 1))
    assert equal(*first)
    assert equal(*second)
    assert not equal(first[0], second[0])  # the function itself draws its initial parameters
    fits = fit_families(with_param, make_encoder(), families, X, seeds=[0, 1], **SHORT)
    owned = {parameter.data_ptr() for fit in fits.fits for parameter in fit.vi.model.parameters()}
    assert len(owned) == 2 * len(fits.fits)
    assert not equal(*(fits[family].model.state_dict() for family in families))
    assert dict(pyro.get_param_store().items()) == store


def decode(decoder: nn.Module, x: Tensor) -> None:
    pyro.module("decoder", decoder)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)


def test_the_owner_of_a_bound_method_is_copied() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Linear(2, 3)

        def model(self, x: Tensor) -> None:
            decode(self.decoder, x)

    owner = Owner()
    before = copied_state(owner)
    fits = fit_families(owner.model, make_encoder(), ["diagonal", "full"], X, **SHORT)
    assert equal(owner.state_dict(), before)
    assert not equal(fits["diagonal"].model.state_dict(), fits["full"].model.state_dict())


@pytest.mark.parametrize("has_run", [False, True])
def test_functions_with_outer_modules_cannot_be_copied(has_run: bool) -> None:
    """Each copy would train the same module; as a frozen model the function can be used."""
    decoder = nn.Linear(2, 3)

    def model(x: Tensor) -> None:
        decode(decoder, x)

    given = avi.AmortizedVI(model, make_encoder()).fit(X, **SHORT).model if has_run else model
    before = copied_state(decoder)
    with pytest.raises(ModelError, match="freeze_model=True"):
        fit_families(given, make_encoder(), ["diagonal", "full"], X, **SHORT)
    assert equal(decoder.state_dict(), before)
    frozen = fit_families(given, make_encoder(), ["diagonal", "full"], X, freeze_model=True, **SHORT)
    assert equal(decoder.state_dict(), before)
    assert frozen["full"].model is frozen["diagonal"].model


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"families": ["diagonal", "full", "flows"]}, FamilyError, "family .* got 'flows'"),
        ({"families": ["diagonal", 3]}, FamilyError, "family .* got 3"),
        ({"families": ["diagonal", avi.families.LowRank(rank=5)]}, FamilyError, "rank"),
        ({"families": []}, OptionError, "families"),
        ({"families": ["full", "diagonal", "full"]}, OptionError, "families .* different labels"),
        ({"families": "full"}, OptionError, "families .* got 'full'"),
        ({"families": None}, OptionError, "families .* got None"),
        ({"seeds": []}, OptionError, "seeds"),
        ({"seeds": [1, 2, 1]}, OptionError, r"seeds .* got \[1, 2, 1\]"),
        ({"seeds": [0, None]}, OptionError, r"seeds .* got \[0, None\]"),
        ({"seeds": [0, -1]}, OptionError, "seed .* got -1"),
        ({"seeds": 3}, OptionError, "seeds .* got 3"),
        ({"seed": 3}, OptionError, r"seeds=\[3\]"),
        ({"epoch": 3}, OptionError, "epoch .* epochs"),
        ({"patience": 3}, OptionError, "patience"),
        ({"device": "abacus"}, OptionError, "device"),
        ({"x": X * math.nan}, DataError, "NaN"),
        ({"plate": "other"}, ModelError, "other"),
        ({"model": 3}, ModelError, "callable"),
        ({"encoder": lambda x: x}, EncoderError, "encoder"),
    ],
)
def test_bad_arguments_are_detected_before_the_first_fit(
    options: dict[str, object], error: type[AmortviError], argument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: avi.AmortizedVI, *args: object, **kwargs: object) -> None:
        raise AssertionError("a fit was started")

    monkeypatch.setattr(avi.AmortizedVI, "fit", fit)
    arguments = {"model": make_model(), "encoder": make_encoder(), "families": ["diagonal", "full"], "x": X} | options
    with pytest.raises(error, match=argument):
        fit_families(**arguments)


def test_lazy_encoders_can_be_copied() -> None:
    encoder = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh())
    fits = fit_families(make_model(), encoder, ["diagonal", "full"], X, seeds=[0, 1], **UNCHANGED)
    one, two, other = (
        fits.of(family)[seed].vi.encoder[0].weight for family, seed in (("full", 0), ("diagonal", 0), ("full", 1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert encoder[0].has_uninitialized_params()
    assert encoder[1].has_uninitialized_params()


def test_labels_of_classes_and_objects() -> None:
    choices = ["full", avi.families.FullCovariance, avi.families.LowRank(rank=1)]
    fits = fit_families(make_model(), make_encoder(), choices, X, **UNCHANGED)
    assert list(fits) == ["full", "FullCovariance", "LowRank(rank=1)"]


def test_observations_of_every_kind() -> None:
    frame = pd.DataFrame(X.numpy(), columns=["a", "b", "c"])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=40)
    tables = []
    for data in (X, X.numpy(), frame, (X,), {"x": X}, loader):
        fits = fit_families(make_model(), make_encoder(), ["diagonal"], data, **SHORT)
        tables.append(compare(fits, data, particles=3).drop(columns="seconds"))
    for table in tables[:-1]:  # a loader has its own batch size
        pd.testing.assert_frame_equal(table, tables[0])
    assert list(tables[-1].columns) == list(tables[0].columns)


def test_double_precision() -> None:
    model, encoder = make_model(), make_encoder()
    fits = fit_families(model, encoder, ["diagonal", "full"], X.double(), dtype=torch.float64, **SHORT)
    assert all(vi.dtype == torch.float64 for vi in fits.values())
    assert {parameter.dtype for module in (model, encoder) for parameter in module.parameters()} == {torch.float32}
