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
from amortvi.errors import DataError, FamilyError, NotFittedError, OptionError
from tests.comparison.problem import FAMILIES, SHORT, UNCHANGED, X, make_encoder, make_model, with_param
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
TEST = MODEL.simulate(200, seed=1)


@pytest.fixture(scope="module")
def fits() -> FamilyFits:
    return fit_families(make_model(), make_encoder(), FAMILIES, X, seeds=[3, 4], **SHORT)


@pytest.fixture(scope="module")
def exact() -> dict[str, avi.AmortizedVI]:
    """The best posterior of two families for one model."""
    return {"diagonal": solved(MODEL, avi.families.Diagonal), "full": solved(MODEL)}


def table_by_hand(fits: FamilyFits, x: Tensor, particles: int, seed: int) -> pd.DataFrame:
    tables = {
        family: [fit.vi.evaluate(x, particles=particles, seed=seed) for fit in fits.of(family)] for family in fits
    }
    elbo, score = (
        {family: sum(table[column] for table in found) / len(found) for family, found in tables.items()}
        for column in ("elbo", "iwae")  # the fits have different models, so the score is the evidence
    )
    best = max(score, key=lambda family: score[family].mean())
    rows = {}
    for family, found in tables.items():
        paired = score[family] - score[best]
        own = [table["iwae"].mean() for table in found]
        seeds = [
            np.var([t["iwae"].mean() for t in tables[name]], ddof=1) / 2 if len(found) > 1 else 0.0
            for name in (family, best)
        ]
        noise = abs(paired.mean()) <= 2 * math.sqrt(paired.sem() ** 2 + sum(seeds))
        rows[family] = {
            "elbo": elbo[family].mean(),
            "elbo_se": elbo[family].sem(),
            "difference": paired.mean(),
            "difference_se": paired.sem(),
            "iwae": np.mean([table["iwae"].mean() for table in found]),
            "reconstruction": np.mean([table["reconstruction"].mean() for table in found]),
            "kl": np.mean([table["kl"].mean() for table in found]),
            "parameters": sum(parameter.numel() for parameter in fits[family].guide.parameters()),
            "seconds": np.mean([fit.seconds for fit in fits.of(family)]),
            "seeds": len(found),
            "seed_sd": np.std(own, ddof=1) if len(own) > 1 else math.nan,
            "verdict": "best" if family == best else "within noise of the best" if noise else "worse",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").sort_values("difference", ascending=False)
    return frame.astype({"parameters": int, "seeds": int}).rename_axis("family")


def test_the_table_of_several_seeds(fits: FamilyFits) -> None:
    table = compare(fits, X[:50], particles=7, seed=11)
    pd.testing.assert_frame_equal(table, table_by_hand(fits, X[:50], 7, 11))
    assert (table["seeds"] == 2).all()
    assert (table["seed_sd"] > 0).all()
    np.testing.assert_allclose(table["elbo"], table["reconstruction"] - table["kl"])
    assert (table["iwae"] >= table["elbo"]).all()
    best = table.iloc[0]
    assert (best["verdict"], best["difference"], best["difference_se"]) == ("best", 0, 0)
    assert table["iwae"].is_monotonic_decreasing
    assert table.attrs["score"] == "evidence"


def test_the_table_of_one_seed(fits: FamilyFits) -> None:
    one = FamilyFits([fit for fit in fits.fits if fit.seed == 3])
    table = compare(one, X[:50], particles=7, seed=11)
    pd.testing.assert_frame_equal(table, table_by_hand(one, X[:50], 7, 11))
    assert table["seed_sd"].isna().all()


def test_estimators_by_name(fits: FamilyFits) -> None:
    named = {"wide": fits["full"], "narrow": fits["diagonal"]}
    table = compare(named, X[:50], particles=7, seed=11)
    both = FamilyFits([fit for fit in fits.fits if fit.seed == 3 and fit.family != "low_rank"])
    expected = compare(both, X[:50], particles=7, seed=11).rename(index={"full": "wide", "diagonal": "narrow"})
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert table["seconds"]["wide"] == pytest.approx(fits["full"].history["seconds"].sum())


def test_a_seed_reproduces_the_table(fits: FamilyFits) -> None:
    one, two, other = (compare(fits, X[:20], particles=3, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not np.array_equal(one["elbo"], other["elbo"])


def test_parameters_are_the_trained_ones_of_encoder_and_family(fits: FamilyFits) -> None:
    table = compare(fits, X[:20], particles=2)
    encoder = 3 * 8 + 8
    assert table["parameters"]["diagonal"] == encoder + (8 + 1) * 4
    assert table["parameters"]["full"] == encoder + (8 + 1) * 5
    partly_fixed = nn.Sequential(nn.Linear(3, 5).requires_grad_(False), nn.Linear(5, 4))
    table = compare(fit_families(make_model(), partly_fixed, ["diagonal"], X, **UNCHANGED), X[:20], particles=2)
    assert table["parameters"]["diagonal"] == 5 * 4 + 4 + (4 + 1) * 4


# ------------------------------------------------------------------------------------------------ exact answers


def test_the_difference_is_the_gap_of_the_family(exact: dict[str, avi.AmortizedVI]) -> None:
    """Estimators of one model are compared by the ELBO; paired differences have no noise between observations."""
    table = compare(exact, TEST, particles=100)
    assert list(table.index) == ["full", "diagonal"]
    assert (table.attrs["score"], list(table["verdict"])) == ("elbo", ["best", "worse"])
    difference, error = table.loc["diagonal", ["difference", "difference_se"]]
    assert difference == pytest.approx(-MODEL.diagonal_gap(), abs=5 * error)
    assert error < 0.2 * table["elbo_se"]["diagonal"]
    assert table["elbo"]["full"] == pytest.approx(MODEL.log_evidence(TEST).mean().item(), abs=1e-6)
    assert compare(exact, TEST[:20], by="evidence", particles=5).attrs["score"] == "evidence"


def test_refined_posteriors_of_one_model_have_the_same_evidence(exact: dict[str, avi.AmortizedVI]) -> None:
    trained = {name: vi.fit(TEST, epochs=1, lr=1e-30, seed=0, progress=False) for name, vi in exact.items()}
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


@pytest.mark.parametrize("case", ["same module", "equal modules", "same function"])
def test_the_score_depends_on_whether_the_model_is_shared(case: str) -> None:
    """A function has parameters of its own in each estimator, so estimators of the same function have different models."""
    model = make_model() if case == "same module" else with_param
    fits = {
        name: avi.AmortizedVI(make_model() if case == "equal modules" else model, make_encoder(), name).setup(X, seed=0)
        for name in FAMILIES[:2]
    }
    assert compare(fits, X[:20], particles=5).attrs["score"] == ("elbo" if case == "same module" else "evidence")


@pytest.mark.parametrize("order", [["broken", "full"], ["full", "broken"]])
def test_a_bound_of_nan_is_the_worst(fits: FamilyFits, order: list[str]) -> None:
    broken = avi.AmortizedVI(make_model(), make_encoder(), "diagonal").setup(X, seed=0)
    with torch.no_grad():
        broken.model.likelihood.log_scale.fill_(math.nan)
    named = {"broken": broken, "full": fits["full"]}
    table = compare({name: named[name] for name in order}, X[:50], particles=3)
    assert list(table.index) == ["full", "broken"]
    assert list(table["verdict"]) == ["best", "worse"]
    assert math.isnan(table["elbo"]["broken"])
    assert math.isnan(table["difference"]["broken"])
    assert table["difference"]["full"] == 0


def test_one_observation_has_no_standard_error(fits: FamilyFits) -> None:
    table = compare(fits, X[:1], particles=3)
    assert table[["elbo_se", "difference_se"]].isna().all(axis=None)
    assert list(table["verdict"]) == ["best", *["unknown from one observation"] * (len(table) - 1)]
    assert np.isfinite(table["elbo"]).all()


def test_flows_can_be_compared_but_not_refined() -> None:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(100, seed=0)
    fits = fit_families(model, avi.encoders.MLP(3, [8]), ["flow", "full"], x, freeze_model=True, **SHORT)
    table = compare(fits, x, particles=5)
    assert set(table.index) == {"flow", "full"}
    assert np.isfinite(table.drop(columns=["verdict", "seed_sd"])).all(axis=None)
    with pytest.raises(FamilyError, match="Flow"):
        compare(fits, x, particles=5, gaps=True)


# ------------------------------------------------------------------------------------------------ arguments


def test_a_posterior_is_refused_before_anything_is_computed(
    exact: dict[str, avi.AmortizedVI], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A posterior would be scored in place of that of every fit, as if all fits were equal."""

    def evaluate(self: avi.AmortizedVI, *args: object, **kwargs: object) -> None:
        raise AssertionError("a bound was computed")

    monkeypatch.setattr(avi.AmortizedVI, "evaluate", evaluate)
    for gaps in (False, True):
        with pytest.raises(DataError, match="Posterior"):
            compare(exact, exact["full"].posterior(TEST), gaps=gaps)


def test_bad_arguments(fits: FamilyFits) -> None:
    for empty in ({}, FamilyFits([])):
        with pytest.raises(OptionError, match="fits"):
            compare(empty, X)
    with pytest.raises(OptionError, match=r"fits .* list"):
        compare([fits["full"]], X)
    with pytest.raises(OptionError, match=r"by .*'loo'"):
        compare(fits, X, by="loo")
    with pytest.raises(OptionError, match="particles"):
        compare(fits, X, particles=0)
    with pytest.raises(DataError, match="x"):
        compare(fits, X[:, :2])
    with pytest.raises(NotFittedError):
        compare({"new": avi.AmortizedVI(make_model(), make_encoder())}, X)


def test_fits_of_several_calls_can_be_combined(fits: FamilyFits) -> None:
    more = fit_families(make_model(), make_encoder(), [avi.families.LowRank(rank=2)], X, seeds=[3, 4], **SHORT)
    table = compare(FamilyFits([*fits.fits, *more.fits]), X[:20], particles=2)
    assert len(table) == 4
    assert list(FamilyFits([Fit("mine", 0, fits["full"], 1.0)])) == ["mine"]
