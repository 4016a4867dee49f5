"""The report: one file with the results of the diagnostics."""

import base64
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
from amortvi.diagnostics.gaps.diagnosis import diagnose
from amortvi.errors import DataError, MissingDependencyError, NotFittedError, OptionError
from amortvi.plots.report import report
from amortvi.plots.report.page import make_table
from tests.exact import linear_gaussian
from tests.families.network_family import NetworkFamily

TITLES = ["Verdicts", "Comparison", "Gaps", "Reliability", "Calibration", "Latents", "Training"]


@pytest.fixture(scope="module")
def data(x: Tensor) -> Tensor:
    return x[:20]


@pytest.fixture(scope="module")
def page(fits: avi.FamilyFits, data: Tensor, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of two families with two seeds."""
    path = tmp_path_factory.mktemp("report") / "new" / "folder" / "report.html"
    return report(fits, data, path, labels=data[:, 0] > 0, draws=100, simulations=100).read_text(encoding="utf-8")


def test_the_file_contains_its_figures_and_refers_to_nothing_else(page: str) -> None:
    # With its empty tags closed, the page without its first line (the document type) is XML.
    root = ElementTree.fromstring(re.sub(r"(<(?:meta|img)[^>]*)>", r"\1/>", page.partition("\n")[2]))
    images = root.findall(".//img")
    # Comparison, gaps and history; for each fit k-hat, ranks, coverage, usage and map.
    assert len(images) == 3 + 5 * 2
    for image in images:
        kind, _, content = image.get("src").partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
        assert image.get("alt")
    assert [link.get("href") for link in root.iter("a")] == [f"#{part.get('id')}" for part in root.iter("section")]
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_the_report_agrees_with_the_diagnostics(page: str, fits: avi.FamilyFits, data: Tensor) -> None:
    text = html.unescape(page)
    for title in TITLES:
        assert f">{title}</h2>" in text
    found = diagnose(fits["diagonal"], data, draws=100)
    assert f'<span class="verdict">{found.fault}</span>: {found.statement}' in text
    table = avi.compare(fits, data, particles=100)
    assert f"{table['difference'].min():.3f}" in text
    assert "Ranked by the ELBO, since all fits share one model" in text
    assert "averages over 2 seeds" in text


def test_one_fit_has_no_comparison_and_a_seed_reproduces_it(fits: avi.FamilyFits, data: Tensor, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, again = (report(fits["full"], data[:5], tmp_path / name, draws=30, simulations=0) for name in ("a", "b"))
    assert torch.equal(state, torch.get_rng_state())
    page = first.read_text(encoding="utf-8")
    assert again.read_text(encoding="utf-8") == page
    assert ">Comparison</h2>" not in page
    assert ">Calibration</h2>" not in page


def test_names_are_escaped_and_one_observation_is_enough(fits: avi.FamilyFits, data: Tensor, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    named = {name: fits["full"], "diagonal": fits["diagonal"]}
    page = report(named, data[:1], tmp_path / "a.html", draws=30, simulations=0).read_text(encoding="utf-8")
    assert name not in page
    assert html.escape(name) in page
    assert "A single observation has no standard error" in page
    assert "needs at least two observations" in page


def test_a_family_that_cannot_be_refined_has_no_gaps_and_all_other_sections(data: Tensor, tmp_path: Path) -> None:
    model, family = linear_gaussian(3, 4, dtype=torch.float32), NetworkFamily
    vi = avi.AmortizedVI(model, avi.encoders.MLP(4, []), family, freeze_model=True)
    vi.fit(data.float(), epochs=1, seed=0, progress=False)
    page = report(vi, data.float(), tmp_path / "a.html", draws=30, simulations=100).read_text(encoding="utf-8")
    assert '<span class="verdict">no verdict</span>: the gaps are unknown' in page
    assert [title for title in TITLES if f">{title}</h2>" not in page] == ["Comparison", "Gaps"]


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


def test_numbers_in_tables() -> None:
    columns = {"a_b": [-0.00001, 1234.5, 0.0], "c": ["x_1", "y", "z"], "d": [1.0, float("nan"), 2.0]}
    table = make_table(pd.DataFrame(columns, index=["i", "j", "k"]), digits=2)
    assert table.header == ["", "a b", "c", "d"]
    assert table.rows == [["i", "-1e-05", "x_1", "1.00"], ["j", "1,234.50", "y", "–"], ["k", "0.00", "z", "2.00"]]


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
