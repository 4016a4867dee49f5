"""The report: one file with the results of the diagnostics."""

import html
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.comparison import FamilyFits
from amortvi.diagnostics.gaps.diagnosis import diagnose
from amortvi.errors import DataError, MissingDependencyError, NonFiniteError, NotFittedError, OptionError
from amortvi.plots.palette import family_color
from amortvi.plots.report import report
from amortvi.plots.report.findings import CHECKED
from amortvi.plots.report.tables import table_of
from tests.exact import linear_gaussian
from tests.families.network_family import NetworkFamily

TITLES = ["Verdicts", "Comparison", "Gaps", "Importance weights", "Calibration", "Latents", "Training", "Provenance"]


@pytest.fixture(scope="module")
def data(x: Tensor) -> Tensor:
    return x[:20]


@pytest.fixture(scope="module")
def page(fits: avi.FamilyFits, data: Tensor, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of two families with two seeds, and of two that are missing."""
    path = tmp_path_factory.mktemp("report") / "new" / "folder" / "report.html"
    given = FamilyFits(fits.fits, {("flow", 0): NonFiniteError("no density")}, [("low_rank", 1)])
    return report(given, data, path, labels=data[:, 0] > 0, draws=100, simulations=100).read_text(encoding="utf-8")


def parsed(page: str) -> ElementTree.Element:
    """Return the page without its first line, the type of the document, as XML: its empty tags are closed."""
    return ElementTree.fromstring(re.sub(r"(<(?:meta|link|br)[^>]*)>", r"\1/>", page.partition("\n")[2]))


def text_of(page: str) -> str:
    """Return what a reader sees, outside figures, with single spaces."""
    body = re.sub(r"<style.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_file_contains_its_figures_and_refers_to_nothing_else(page: str) -> None:
    root = parsed(page)
    figures = root.findall(".//{http://www.w3.org/2000/svg}svg")
    # Comparison, gaps and history; for each fit k-hat, ranks, coverage, usage and map.
    assert len(figures) == 3 + 5 * 2
    assert all(figure.get("role") == "img" and figure.get("aria-label") for figure in figures)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    references = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", page))
    assert references <= set(ids)
    assert not re.search(r"(src|href)=\"(?!data:|#)|<script|@import", page)
    assert "rank of the truth" in "".join(root.itertext())  # text remains text


def test_tables_have_captions_and_scopes(page: str) -> None:
    tables = parsed(page).findall(".//table")
    assert len(tables) > 8
    for table in tables:
        assert table.findtext("caption")
        assert all(cell.get("scope") == "col" for cell in table.findall("thead//th"))
        assert all(row[0].get("scope") == "row" for row in table.findall("tbody/tr"))


def test_fits_keep_the_colors_of_their_families(page: str) -> None:
    headings = re.findall(r"<h3><span class=\"swatch\" style=\"background: var\(--svg-(\w+)[^>]*></span>(\w+)", page)
    colors = {name: {shade for shade, other in headings if other == name} for _, name in headings}
    for name in ("diagonal", "full"):
        assert colors[name] == {family_color(name)[1:].lower()}


def test_the_report_agrees_with_the_diagnostics(page: str, fits: avi.FamilyFits, data: Tensor) -> None:
    text = text_of(page)
    assert [title for title in TITLES if f">{title}</h2>" not in page] == []
    found = diagnose(fits["diagonal"], data, draws=100, simulations=CHECKED)
    means = found.gaps.summary()
    assert f"{means.loc['inference_gap', 'mean']:.3f} ± {means.loc['inference_gap', 'se']:.3f}" in text
    table = avi.compare(fits, data, particles=100)
    assert f"{table['difference'].min():.3f}".replace("-", "−") in text
    assert "Ranked by the ELBO, since all fits share one model" in text
    assert "averages over 2 seeds" in text


def test_each_fit_has_one_verdict_and_those_that_are_missing_are_named(page: str) -> None:
    text = text_of(page)
    labels = re.findall(r'<p class="label"><span>([^<]+)</span>', page)
    assert labels == ["Not converged", "Not converged", "Failed", "Not fitted"]
    assert "flow, seed 0 Failed NonFiniteError: no density; correct the cause" in text
    assert "low_rank, seed 1 Not fitted" in text


def test_provenance(page: str, fits: avi.FamilyFits) -> None:
    text = text_of(page)
    for part in (avi.__version__, torch.__version__, pyro.__version__, "(20, 4)", "float64", "LinearGaussian"):
        assert part in text
    (call,) = fits["full"].calls
    assert call.startswith("fit(40 observations, validation_data=Tensor, epochs=4, batch_size=20, lr=0.05")
    assert call in text
    assert f"{CHECKED} on which the estimates of the evidence are checked" in text


def test_nothing_is_shown_as_nan(page: str) -> None:
    assert not re.search(r"\bnan\b", text_of(page), re.IGNORECASE)


def test_one_fit_has_no_comparison_and_a_seed_reproduces_it(fits: avi.FamilyFits, data: Tensor, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, again = (report(fits["full"], data[:5], tmp_path / name, draws=30, simulations=0) for name in ("a", "b"))
    assert torch.equal(state, torch.get_rng_state())
    pages = [re.sub(r"<time>.*?</time>", "", path.read_text(encoding="utf-8")) for path in (first, again)]
    assert pages[0] == pages[1]
    assert ">Comparison</h2>" not in pages[0]
    assert ">Calibration</h2>" not in pages[0]


def test_names_are_escaped_and_one_observation_is_enough(fits: avi.FamilyFits, data: Tensor, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    named = {name: fits["full"], "diagonal": fits["diagonal"]}
    page = report(named, data[:1], tmp_path / "a.html", draws=30, simulations=0).read_text(encoding="utf-8")
    assert "<script" not in page
    assert html.escape(name) in page
    text = text_of(page)
    assert "—: one observation has no standard error." in text
    assert "needs at least two observations" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_a_family_that_cannot_be_refined_has_no_gaps_and_all_other_sections(data: Tensor, tmp_path: Path) -> None:
    model, family = linear_gaussian(3, 4, dtype=torch.float32), NetworkFamily
    vi = avi.AmortizedVI(model, avi.encoders.MLP(4, []), family, freeze_model=True)
    vi.fit(data.float(), epochs=1, seed=0, progress=False)
    page = report(vi, data.float(), tmp_path / "a.html", draws=30, simulations=100).read_text(encoding="utf-8")
    assert "NetworkFamily has no gaps: " in text_of(page)
    assert [title for title in TITLES if f">{title}</h2>" not in page] == ["Comparison"]


def test_a_model_that_cannot_be_simulated_has_no_calibration(tmp_path: Path) -> None:
    """The observed site is a function of the argument, so its draws are not arguments."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("log x", dist.Normal(z, 1.0).to_event(1), obs=x.exp().log1p())

    x = torch.linspace(-1, 1, 20).reshape(10, 2)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=1, seed=0, progress=False)
    page = report(vi, x, tmp_path / "a.html", draws=30, simulations=100).read_text(encoding="utf-8")
    assert "Calibration failed:" in page


def test_a_fit_without_finite_posteriors_leaves_the_others(data: Tensor, tmp_path: Path) -> None:
    model, encoder = linear_gaussian(3, 4), avi.encoders.MLP(4, [])
    fits = avi.fit_families(model, encoder, ["diagonal", "full"], data, epochs=1, freeze_model=True, progress=False)
    with torch.no_grad():
        next(fits["full"].guide.parameters()).fill_(torch.nan)
    page = report(fits, data, tmp_path / "a.html", draws=30, simulations=0).read_text(encoding="utf-8")
    assert re.findall(r'<p class="label"><span>([^<]+)</span>', page) == ["Not converged", "Failed"]


def test_a_missing_number_has_a_reason() -> None:
    columns = {"a_b": [-0.00001, 1234.5, 0.0], "c": ["x_1", "y", "z"], "d": [1.0, float("nan"), 2.0], "e": [True] * 3}
    frame = pd.DataFrame(columns, index=["i", "j", "k"])
    table = table_of(frame, "caption", digits=2, reasons={"d": "there is one seed"})
    assert table.header == ["", "a b", "c", "d", "e"]
    assert table.rows[0] == ["i", "−1e−05", "x_1", "1.00", "yes"]
    assert table.rows[1][3] == "—"
    assert table.notes == ["— in d: there is one seed."]
    assert table.numeric == [False, True, False, True, False]


def test_invalid_arguments_are_refused_before_any_computation(
    fits: avi.FamilyFits, vi: avi.AmortizedVI, data: Tensor, tmp_path: Path
) -> None:
    path, fit = tmp_path / "folder" / "a.html", fits["full"]
    for given, x, options, error, message in (
        (fits, data, {"simulations": 5}, OptionError, "simulations must be 0 or at least 100"),
        (fits, data, {"draws": 20}, OptionError, "draws must be an integer of at least 21"),
        (fits, data, {"tolerance": 0}, OptionError, "tolerance must be a finite positive number"),
        (fits, data, {"seed": -1}, OptionError, "seed must be a nonnegative integer"),
        (fits, data, {"labels": [1, 2, 3]}, OptionError, "labels must be one .*, 20 in total; got 3"),
        (fits, data, {"labels": 3}, OptionError, "labels must be .*; got int"),
        ([fit], data, {}, OptionError, "fits must be an AmortizedVI, the result of fit_families, .* got list"),
        ({"full": 1}, data, {}, OptionError, "fits must be .* got dict"),
        ({}, data, {}, OptionError, "fits is empty"),
        (fits, fit.posterior(data), {}, DataError, "Posterior"),
        (vi, data, {"draws": 30}, NotFittedError, "fit"),  # set up, but not trained
    ):
        with pytest.raises(error, match=message):
            report(given, x, path, **options)
    assert not path.parent.exists()


def test_without_jinja_the_error_names_the_extra(
    fits: avi.FamilyFits, data: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"amortvi\[report\]"):
        report(fits["full"], data[:5], tmp_path / "a.html", draws=30, simulations=0)
