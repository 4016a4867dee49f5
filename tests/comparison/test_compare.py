"""Families side by side: the numbers by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import DataError, NotFittedError, OptionError
from amortvi.comparison.fits import FamilyFits, Fit
from tests.comparison.test_fits import FAMILIES, SHORT, STANDING, X, make_encoder, make_model


@pytest.fixture(scope="module")
def fits() -> FamilyFits:
    return avi.fit_families(make_model(), make_encoder(), FAMILIES, X, seeds=[3, 4], **SHORT)


def _by_hand(fits: FamilyFits, x: Tensor, particles: int, seed: int) -> pd.DataFrame:
    tables = {
        family: [fit.vi.evaluate(x, particles=particles, seed=seed) for fit in fits.of(family)] for family in fits
    }
    elbo, score = (
        {family: sum(table[column] for table in found) / len(found) for family, found in tables.items()}
        for column in ("elbo", "iwae")  # each family has a model of its own: its evidence is what counts
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
        guide = fits[family].guide
        rows[family] = {
            "elbo": elbo[family].mean(),
            "elbo_se": elbo[family].sem(),
            "difference": paired.mean(),
            "difference_se": paired.sem(),
            "iwae": np.mean([table["iwae"].mean() for table in found]),
            "reconstruction": np.mean([table["reconstruction"].mean() for table in found]),
            "kl": np.mean([table["kl"].mean() for table in found]),
            "parameters": sum(parameter.numel() for parameter in guide.parameters()),
            "seconds": np.mean([fit.seconds for fit in fits.of(family)]),
            "seeds": len(found),
            "seed_sd": np.std(own, ddof=1) if len(own) > 1 else math.nan,
            "verdict": "best" if family == best else "within noise of the best" if noise else "worse",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").sort_values("difference", ascending=False)
    return frame.astype({"parameters": int, "seeds": int}).rename_axis("family")


def test_the_table_by_hand_with_several_seeds(fits: FamilyFits) -> None:
    table = avi.compare(fits, X[:50], particles=7, seed=11)
    pd.testing.assert_frame_equal(table, _by_hand(fits, X[:50], 7, 11))
    assert (table["seeds"] == 2).all()
    assert (table["seed_sd"] > 0).all()
    np.testing.assert_allclose(table["elbo"], table["reconstruction"] - table["kl"])
    assert (table["iwae"] >= table["elbo"]).all()
    best = table.iloc[0]
    assert (best["difference"], best["difference_se"]) == (0, 0)
    assert table["iwae"].is_monotonic_decreasing
    assert table.attrs["score"] == "evidence"
    # The same observations: what they have in common drops out of the difference.
    assert (table["difference_se"].iloc[1:] < table["elbo_se"].iloc[1:] / 2).all()


def test_the_table_of_one_seed_by_hand(fits: FamilyFits) -> None:
    one = FamilyFits([fit for fit in fits.fits if fit.seed == 3])
    table = avi.compare(one, X[:50], particles=7, seed=11)
    pd.testing.assert_frame_equal(table, _by_hand(one, X[:50], 7, 11))
    assert table["seed_sd"].isna().all()


def test_estimators_by_name(fits: FamilyFits) -> None:
    """A plain mapping of what was fitted elsewhere, under any names."""
    named = {"wide": fits["full"], "narrow": fits["diagonal"]}
    table = avi.compare(named, X[:50], particles=7, seed=11)
    both = FamilyFits([fit for fit in fits.fits if fit.seed == 3 and fit.family != "low_rank"])
    expected = avi.compare(both, X[:50], particles=7, seed=11).rename(index={"full": "wide", "diagonal": "narrow"})
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert table["seconds"]["wide"] == pytest.approx(fits["full"].history["seconds"].sum())


def test_the_table_is_its_seeds_alone(fits: FamilyFits) -> None:
    one, two, other = (avi.compare(fits, X[:20], particles=3, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not np.array_equal(one["elbo"], other["elbo"])


def test_parameters_are_those_of_encoder_and_family(fits: FamilyFits) -> None:
    table = avi.compare(fits, X[:20], particles=2)
    encoder = 3 * 8 + 8
    assert table["parameters"]["diagonal"] == encoder + (8 + 1) * 4
    assert table["parameters"]["full"] == encoder + (8 + 1) * 5
    fixed = nn.Sequential(nn.Linear(3, 5).requires_grad_(False), nn.Linear(5, 4))
    table = avi.compare(avi.fit_families(make_model(), fixed, ["diagonal"], X, **STANDING), X[:20], particles=2)
    assert table["parameters"]["diagonal"] == 5 * 4 + 4 + (4 + 1) * 4


def test_the_best_family_has_the_best_bound() -> None:
    """Where the exact posterior is correlated, what is known of each family shows in the table."""
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
    x = model.simulate(300, seed=0)
    fits = avi.fit_families(
        model, avi.encoders.MLP(2, []), ["diagonal", "full"], x, freeze_model=True, epochs=60, lr=0.03, progress=False
    )
    table = avi.compare(fits, x, particles=50)
    assert list(table.index) == ["full", "diagonal"]
    assert (table.attrs["score"], list(table["verdict"])) == ("elbo", ["best", "worse"])
    difference, error = table.loc["diagonal", ["difference", "difference_se"]]
    assert difference + 5 * error < 0
    assert difference == pytest.approx(-model.diagonal_gap(), abs=0.05)
    assert table["elbo"]["full"] == pytest.approx(model.log_evidence(x).mean().item(), abs=0.03)


def test_one_frozen_model_has_one_evidence() -> None:
    """So with refined posteriors the evidences are level, and what a family loses shows in its gaps."""
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
    x = model.simulate(100, seed=0)
    fits = avi.fit_families(
        model, avi.encoders.MLP(2, []), ["diagonal", "full"], x, freeze_model=True, epochs=60, lr=0.03, progress=False
    )
    table = avi.compare(fits, x, by="evidence", gaps=True)
    np.testing.assert_allclose(table["evidence"], model.log_evidence(x).mean().item(), atol=0.01)
    assert sorted(table["verdict"]) == ["best", "within noise of the best"] or (table["difference"] > -0.01).all()
    assert table["approximation_gap"]["diagonal"] == pytest.approx(model.diagonal_gap(), abs=0.05)
    assert abs(table["approximation_gap"]["full"]) < 0.02
    assert table["fault"]["diagonal"] == "family"
    np.testing.assert_allclose(table["inference_gap"], table["approximation_gap"] + table["amortization_gap"])
    assert (table["k_hat"] < 1).all()


def test_what_ranks_is_found_out() -> None:
    """Estimators that were given one module have one model; a function gets parameters of its own in each."""
    model = make_model()
    shared = {
        name: avi.AmortizedVI(model, make_encoder(), name, freeze_model=True).fit(X, **SHORT) for name in FAMILIES[:2]
    }
    assert avi.compare(shared, X[:20], particles=5).attrs["score"] == "elbo"
    assert avi.compare(shared, X[:20], particles=5, by="evidence").attrs["score"] == "evidence"
    own = {name: avi.AmortizedVI(make_model(), make_encoder(), name).fit(X, **SHORT) for name in FAMILIES[:2]}
    assert avi.compare(own, X[:20], particles=5).attrs["score"] == "evidence"


def test_what_seeds_differ_by_is_noise() -> None:
    """One family under two names: what separates them is nothing but the seeds."""
    options = {**SHORT, "epochs": 3}
    fits = avi.fit_families(make_model(), make_encoder(), ["diagonal"], X, seeds=[0, 1, 2, 3], **options)
    first, second = fits.fits[:2], fits.fits[2:]
    table = avi.compare(
        FamilyFits([Fit(name, f.seed, f.vi, 0.0) for name, part in (("a", first), ("b", second)) for f in part]), X
    )
    assert sorted(table["verdict"]) == ["best", "within noise of the best"]


@pytest.mark.parametrize("order", [["broken", "full"], ["full", "broken"]])
def test_a_bound_that_is_not_a_number_is_the_last_one(fits: FamilyFits, order: list[str]) -> None:
    """It is shown, and hides nothing of the others."""
    broken = avi.AmortizedVI(make_model(), make_encoder(), "diagonal").fit(X, **SHORT)
    with torch.no_grad():
        broken.model.likelihood.log_scale.fill_(math.nan)
    named = {"broken": broken, "full": fits["full"]}
    table = avi.compare({name: named[name] for name in order}, X[:50], particles=3)
    assert list(table.index) == ["full", "broken"]
    assert math.isnan(table["elbo"]["broken"])
    assert math.isnan(table["difference"]["broken"])
    assert table["difference"]["full"] == 0


def test_one_observation_has_no_standard_error(fits: FamilyFits) -> None:
    table = avi.compare(fits, X[:1], particles=3)
    assert table[["elbo_se", "difference_se"]].isna().all(axis=None)
    assert list(table["verdict"]) == ["best", *["not known from one observation"] * (len(table) - 1)]
    assert np.isfinite(table["elbo"]).all()


def test_compare_checks_its_arguments(fits: FamilyFits) -> None:
    with pytest.raises(OptionError, match="fits holds no fit to compare"):
        avi.compare({}, X)
    with pytest.raises(OptionError, match="by must be 'auto', 'evidence' or 'elbo'; got 'loo'"):
        avi.compare(fits, X, by="loo")
    with pytest.raises(OptionError, match="particles must be a positive integer; got 0"):
        avi.compare(fits, X, particles=0)
    with pytest.raises(DataError, match="x"):
        avi.compare(fits, X[:, :2])
    with pytest.raises(NotFittedError, match="call fit first"):
        avi.compare({"new": avi.AmortizedVI(make_model(), make_encoder())}, X)


def test_fits_can_be_put_together_by_hand(fits: FamilyFits) -> None:
    """Such as those of two calls."""
    more = avi.fit_families(make_model(), make_encoder(), [avi.families.LowRank(2)], X, seeds=[3, 4], **SHORT)
    table = avi.compare(FamilyFits([*fits.fits, *more.fits]), X[:20], particles=2)
    assert len(table) == 4
    single = Fit("mine", 0, fits["full"], 1.0)
    assert list(FamilyFits([single])) == ["mine"]
