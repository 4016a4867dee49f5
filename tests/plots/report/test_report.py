"""The report: one file with the results of the diagnostics, which a browser can show."""

from __future__ import annotations

import base64
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.gaps.diagnosis import diagnose
from amortvi.errors import DataError, MissingDependencyError, NotFittedError, OptionError
from amortvi.families import Flow
from amortvi.plots.report import report
from amortvi.plots.report.page import make_table
from tests.exact import linear_gaussian

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TITLES = ["Verdicts", "Comparison", "Gaps", "Reliability", "Calibration", "Latents", "Training"]


@pytest.fixture(scope="module")
def data(x: Tensor) -> Tensor:
    return x[:20]


@pytest.fixture(scope="module")
def path(fits: avi.FamilyFits, data: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two families with two seeds."""
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    return report(fits, data, folder / "report.html", labels=data[:, 0] > 0, draws=100, simulations=100)


@pytest.fixture(scope="module")
def page(path: Path) -> str:
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Records every tag, and checks that all are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_file_contains_its_figures_and_refers_to_nothing_else(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    images = [attributes for tag, attributes in reader.seen if tag == "img"]
    # Comparison, gaps and history; for each fit k-hat, ranks, coverage, usage and map.
    assert len(images) == 3 + 5 * 2
    for image in images:
        kind, _, content = (image["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
        assert image["alt"]
    links = [attributes["href"] for tag, attributes in reader.seen if tag == "a"]
    anchors = {attributes.get("id") for tag, attributes in reader.seen if tag == "section"}
    assert {(link or "").removeprefix("#") for link in links} == anchors
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


def test_a_flow_has_no_gaps_and_all_other_sections(data: Tensor, tmp_path: Path) -> None:
    model, family = linear_gaussian(3, 4, dtype=torch.float32), Flow(transforms=1, hidden=[4])
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
    path = tmp_path / "folder" / "a.html"
    for options, message in (
        ({"simulations": 5}, "simulations must be 0 or at least 100"),
        ({"draws": 20}, "draws must be an integer of at least 21"),
        ({"tolerance": 0}, "tolerance must be a finite positive number"),
        ({"seed": -1}, "seed must be a nonnegative integer"),
        ({"labels": [1, 2, 3]}, "labels must be one label per observation, 20 in total; got 3"),
        ({"labels": 3}, "labels must be .*; got int"),
    ):
        with pytest.raises(OptionError, match=message):
            report(fits, data, path, **options)  # type: ignore[arg-type]  # mixed types
    for wrong in ([fits["full"]], {}, {"full": 1}):
        with pytest.raises(OptionError, match="fits must be an AmortizedVI, the result of fit_families"):
            report(wrong, data, path)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        report(fits, fits["full"].posterior(data), path)
    with pytest.raises(NotFittedError):
        report(vi, data, path, draws=30)  # set up, but not trained
    assert not path.parent.exists()


def test_without_jinja_the_error_names_the_extra(
    fits: avi.FamilyFits, data: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"amortvi\[report\]"):
        report(fits["full"], data[:5], tmp_path / "a.html", draws=30, simulations=0)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium)")
def test_a_browser_shows_the_report(page: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    # A script added to a copy of the page counts the figures that the browser cannot show.
    script = "document.body.dataset.broken=[...document.images].filter(i=>!i.naturalWidth).length"
    probe = tmp_path / "probe.html"
    probe.write_text(page.replace("</body>", f"<script>onload=()=>{script}</script></body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    command = [BROWSER, *flags, probe.resolve().as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for title in TITLES:
        assert f">{title}</h2>" in run.stdout
    assert 'data-broken="0"' in run.stdout
