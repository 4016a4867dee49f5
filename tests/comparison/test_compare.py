"""The comparison table, recomputed by hand and compared with exact answers."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.comparison import FamilyFits, compare, fit_families
from amortvi.comparison.fits import Fit
from amortvi.errors import AmortviWarning, DataError, FamilyError, NotFittedError, OptionError
from tests.comparison.conftest import FAMILIES, SHORT, UNCHANGED, X, make_encoder, make_model, with_param
from tests.exact import linear_gaussian, solved
from tests.families.network_family import NetworkFamily

UNRELIABLE = "ignore:the evidence of .* may be nats too low"
pytestmark = pytest.mark.filterwarnings(UNRELIABLE)

MODEL = linear_gaussian()
TEST = MODEL.simulate(200, seed=1)


@pytest.fixture(scope="module")
def exact() -> dict[str, avi.AmortizedVI]:
    """The best posterior of two families for one model."""
    return {"diagonal": solved(MODEL, avi.families.Diagonal), "full": solved(MODEL)}


def table_by_hand(fits: FamilyFits, x: Tensor, particles: int, seed: int) -> pd.DataFrame:
    runs = {family: [fit.vi.evaluate(x, particles=particles, seed=seed) for fit in fits.of(family)] for family in fits}
    mean = {family: sum(tables) / len(tables) for family, tables in runs.items()}
    unreliable = {
        family: np.mean(
            [avi.evidence(fit.vi, x, draws=particles, simulations=0, seed=seed).k_hat > 0.5 for fit in fits.of(family)]
        )
        for family in fits
    }
    # The fits have different models, so the score is the evidence.
    best = max(mean, key=lambda family: mean[family]["iwae"].mean())
    rows = {}
    for family, tables in runs.items():
        paired = mean[family]["iwae"] - mean[best]["iwae"]
        by_seed = [[table["iwae"].mean() for table in runs[name]] for name in (family, best)]
        several = len(tables) > 1
        variance = sum(np.var(means, ddof=1) for means in by_seed) / len(tables) if several else 0.0
        tied = abs(paired.mean()) <= 2 * math.sqrt(paired.sem() ** 2 + variance)
        rows[family] = {
            "elbo": mean[family]["elbo"].mean(),
            "elbo_se": mean[family]["elbo"].sem(),
            "difference": paired.mean(),
            "difference_se": paired.sem(),
            **mean[family][["iwae", "reconstruction", "kl"]].mean(),
            "score": "evidence",
            "unreliable": unreliable[family],
            "parameters": sum(parameter.numel() for parameter in fits[family].guide.parameters()),
            "epochs": np.mean([len(fit.vi.history) for fit in fits.of(family)]),
            "status": next(iter({fit.vi.status for fit in fits.of(family)})),
            "converged": all(fit.vi.status == "converged" for fit in fits.of(family)),
            "seconds": np.mean([fit.seconds for fit in fits.of(family)]),
            "seeds": len(tables),
            "seed_sd": np.std(by_seed[0], ddof=1) if several else math.nan,
            "verdict": "unreliable"
            if max(unreliable[family], unreliable[best]) > 0.5
            else "best"
            if family == best
            else "within noise of the best"
            if tied
            else "worse",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").sort_values("difference", ascending=False)
    return frame.astype({"parameters": int, "seeds": int}).rename_axis("family")


@pytest.mark.parametrize("seeds", [[3, 4], [3]])
def test_the_table(fits: FamilyFits, seeds: list[int]) -> None:
    some = FamilyFits([fit for fit in fits.fits if fit.seed in seeds])
    # From 100 draws, k-hat is reliable below 0.5.
    table = compare(some, X[:50], particles=100, seed=11)
    pd.testing.assert_frame_equal(table, table_by_hand(some, X[:50], 100, 11))
    assert tuple(table.iloc[0][["difference", "difference_se"]]) == (0, 0)
    assert table["score"].iloc[0] == "evidence"


def test_estimators_by_name(fits: FamilyFits) -> None:
    named = {"wide": fits["full"], "narrow": fits["diagonal"]}
    table = compare(named, X[:50], particles=7, seed=11)
    both = FamilyFits([fit for fit in fits.fits if fit.seed == 3 and fit.family != "low_rank"])
    expected = compare(both, X[:50], particles=7, seed=11).rename(index={"full": "wide", "diagonal": "narrow"})
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert table["seconds"]["wide"] == pytest.approx(fits["full"].history["seconds"].sum())


def test_parameters_are_the_trained_ones_of_encoder_and_family(fits: FamilyFits) -> None:
    table = compare(fits, X[:20], particles=2)
    encoder = 3 * 8 + 8
    assert table["parameters"]["diagonal"] == encoder + (8 + 1) * 4
    assert table["parameters"]["full"] == encoder + (8 + 1) * 5
    partly_fixed = nn.Sequential(nn.Linear(3, 5).requires_grad_(False), nn.Linear(5, 4))
    table = compare(fit_families(make_model(), partly_fixed, ["diagonal"], X, **UNCHANGED), X[:20], particles=2)
    assert table["parameters"]["diagonal"] == 5 * 4 + 4 + (4 + 1) * 4


def test_the_difference_is_the_gap_of_the_family(exact: dict[str, avi.AmortizedVI]) -> None:
    """Estimators of one model are compared by the ELBO; paired differences have no noise between observations."""
    table = compare(exact, TEST, particles=100)
    assert list(table.index) == ["full", "diagonal"]
    assert (table["score"].iloc[0], list(table["verdict"])) == ("elbo", ["best", "worse"])
    difference, error = table.loc["diagonal", ["difference", "difference_se"]]
    assert difference == pytest.approx(-MODEL.diagonal_gap(), abs=5 * error)
    assert error < 0.2 * table["elbo_se"]["diagonal"]
    assert table["elbo"]["full"] == pytest.approx(MODEL.log_evidence(TEST).mean().item(), abs=1e-6)
    assert compare(exact, TEST[:20], by="evidence", particles=5)["score"].iloc[0] == "evidence"


def test_refined_posteriors_of_one_model_have_the_same_evidence(exact: dict[str, avi.AmortizedVI]) -> None:
    trained = {
        name: vi.fit(TEST, epochs=1, lr=1e-30, standardize=False, seed=0, progress=False) for name, vi in exact.items()
    }
    table = compare(trained, TEST[:50], by="evidence", gaps=True)
    np.testing.assert_allclose(table["evidence"], MODEL.log_evidence(TEST[:50]).mean().item(), atol=0.02)
    assert table["approximation_gap"]["diagonal"] == pytest.approx(MODEL.diagonal_gap(), abs=0.05)
    assert table["approximation_gap"]["full"] == pytest.approx(0, abs=0.02)
    assert dict(table["fault"]) == {"diagonal": "family", "full": "ok"}
    np.testing.assert_allclose(table["inference_gap"], table["approximation_gap"] + table["amortization_gap"])
    assert (table["k_hat"] < 1).all()


def with_loss(nats: float) -> avi.AmortizedVI:
    """Return the exact posterior, shifted so that each observation loses ``nats``."""
    vi = solved(MODEL)
    with torch.no_grad():
        vi.encoder.bias[0] += math.sqrt(2 * nats / MODEL.precision()[0, 0])
    return vi


def test_variation_between_seeds_is_noise() -> None:
    """A difference of a tenth of a nat is clear between single fits, but not between seeds that differ by a nat."""
    losses = {"a": (0.0, 2.0), "b": (0.5, 1.7)}
    fits = [Fit(name, seed, with_loss(loss), 0.0) for name, pair in losses.items() for seed, loss in enumerate(pair)]
    table = compare(FamilyFits(fits), TEST)
    assert dict(table["verdict"]) == {"a": "best", "b": "within noise of the best"}
    assert table["difference"]["b"] == pytest.approx(-0.1, abs=0.05)
    single = compare({"a": with_loss(1.0), "b": with_loss(1.3)}, TEST)
    assert dict(single["verdict"]) == {"a": "best", "b": "worse"}


@pytest.mark.parametrize("case", ["same module", "copies", "same function", "other parameters", "other latents"])
def test_the_score_depends_on_whether_the_models_are_equal(case: str) -> None:
    """Equal models give all data the same evidence, even if they are copies."""
    models = {
        "same module": [make_model()] * 2,
        "copies": [make_model(), make_model()],
        "same function": [with_param] * 2,
        "other parameters": [make_model(), make_model()],
        "other latents": [avi.models.VAE(nn.Linear(dim, 3), dim, "normal") for dim in (2, 3)],
    }[case]
    if case == "other parameters":
        with torch.no_grad():
            models[1].likelihood.log_scale.add_(1e-3)
    fits = {
        name: avi.AmortizedVI(model, make_encoder(), name).setup(X, seed=0)
        for name, model in zip(FAMILIES[:2], models, strict=True)
    }
    score = compare(fits, X[:20], particles=5)["score"].iloc[0]
    assert score == ("evidence" if case.startswith("other") else "elbo")


@pytest.mark.parametrize("order", [["broken", "full"], ["full", "broken"]])
def test_a_bound_of_nan_is_the_worst(fits: FamilyFits, order: list[str]) -> None:
    broken = avi.AmortizedVI(make_model(), make_encoder(), "diagonal").setup(X, seed=0)
    with torch.no_grad():
        broken.model.likelihood.log_scale.fill_(math.nan)
    named = {"broken": broken, "full": fits["full"]}
    with pytest.warns(AmortviWarning, match="the fit of 'broken' is ranked last"):
        table = compare({name: named[name] for name in order}, X[:50], by="elbo", particles=3)
    assert list(table.index) == ["full", "broken"]
    assert list(table["verdict"]) == ["best", "worse"]
    assert table.loc["broken", ["elbo", "difference"]].isna().all()
    assert table["difference"]["full"] == 0


@pytest.mark.filterwarnings("default:the evidence of")
def test_evidence_that_cannot_be_estimated_ranks_nothing(fits: FamilyFits) -> None:
    """Draws from encoders that have not been trained say nothing about the evidence; refined posteriors do."""
    both = {name: avi.AmortizedVI(make_model(), make_encoder(), "diagonal").setup(X, seed=0) for name in "ab"}
    with torch.no_grad():
        both["b"].model.likelihood.log_scale.fill_(-2.0)
    with pytest.warns(AmortviWarning, match=r"the evidence of .*'b' may be nats too low.*gaps=True"):
        table = compare(both, X[:50])
    assert table["unreliable"]["b"] > 0.5
    assert list(table["verdict"]) == ["unreliable", "unreliable"]
    assert "unreliable" not in set(compare(fits, X[:30], gaps=True)["verdict"])
    assert (compare(both, X[:50], by="elbo")["unreliable"] == 0).all()


def test_one_observation_has_no_standard_error(fits: FamilyFits) -> None:
    table = compare(fits, X[:1], by="elbo", particles=3)
    assert table[["elbo_se", "difference_se"]].isna().all(axis=None)
    assert list(table["verdict"]) == ["best", *["unknown from one observation"] * (len(table) - 1)]
    assert np.isfinite(table["elbo"]).all()


def test_families_without_parameters_for_each_observation_can_be_compared_but_not_refined() -> None:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(100, seed=0)
    fits = fit_families(model, avi.encoders.MLP(3, [8]), [NetworkFamily, "full"], x, freeze_model=True, **SHORT)
    table = compare(fits, x, particles=5)
    assert set(table.index) == {"NetworkFamily", "full"}
    assert np.isfinite(table.drop(columns=["verdict", "score", "status", "seed_sd"])).all(axis=None)
    with pytest.raises(FamilyError, match="NetworkFamily"):
        compare(fits, x, particles=5, gaps=True)


def test_bad_arguments(fits: FamilyFits) -> None:
    new = avi.AmortizedVI(make_model(), make_encoder())
    for given, x, options, error, message in (
        ({}, X, {}, OptionError, "fits"),
        (FamilyFits([]), X, {}, OptionError, "fits"),
        ([fits["full"]], X, {}, OptionError, "fits .* list"),
        (fits, X, {"by": "loo"}, OptionError, "by .*'loo'"),
        (fits, X, {"particles": 0}, OptionError, "particles"),
        (fits, X[:, :2], {}, DataError, "x"),
        (fits, fits["full"].posterior(X), {}, DataError, "Posterior"),  # it would be scored in place of every fit's own
        ({"new": new}, X, {}, NotFittedError, "fit"),
    ):
        with pytest.raises(error, match=message):
            compare(given, x, **options)
