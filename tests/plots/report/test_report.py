"""One file that a person can open: what it says, and that a browser shows it."""

from __future__ import annotations

import base64
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor

import amortvi as avi
from amortvi.errors import MissingDependencyError, NotFittedError, OptionError
from amortvi.plots.report.page import tabled

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MODEL = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 1.0], [0.3, 0.0, 1.0]]), scale=0.5)
TITLES = ["Verdicts", "Comparison", "Gaps", "Trust", "Calibration", "Latents", "Training"]


@pytest.fixture(scope="module")
def x() -> Tensor:
    return MODEL.simulate(40, seed=0)


@pytest.fixture(scope="module")
def fits(x: Tensor) -> avi.FamilyFits:
    return avi.fit_families(
        MODEL,
        avi.encoders.MLP(3, []),
        ["diagonal", "full"],
        x,
        freeze_model=True,
        epochs=150,
        batch_size=10,
        lr=0.02,
        progress=False,
    )


@pytest.fixture(scope="module")
def path(fits: avi.FamilyFits, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "made" / "with it"
    labels = (x[:, 0] > 0).int()
    return avi.report(fits, x, folder / "report.html", labels=labels, draws=300, simulations=100)


class Reader(HTMLParser):
    """Notes every tag that opens, and that each is closed in order."""

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


def test_the_file_holds_all_that_it_shows(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    images = [attributes for tag, attributes in reader.seen if tag == "img"]
    # Comparison, gaps, history; k-hat, ranks, coverage, use and map of each fit.
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


def test_it_says_what_was_found(path: Path, fits: avi.FamilyFits, x: Tensor) -> None:
    page = html.unescape(path.read_text(encoding="utf-8"))
    for title in TITLES:
        assert f">{title}</h2>" in page
    for family in fits:
        found = avi.diagnose(fits[family], x, draws=300)
        assert found.statement in page
        assert f'<span class="fault">{found.fault}</span>' in page
    table = avi.compare(fits, x, particles=300)
    assert f"{table['difference']['diagonal']:.3f}" in page
    assert "Ranked by the ELBO, since all fits share one model" in page


def test_one_fit_needs_no_comparison_and_the_calibration_can_be_left_out(
    fits: avi.FamilyFits, x: Tensor, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    first = avi.report(fits["full"], x, tmp_path / "a.html", draws=100, simulations=0)
    assert torch.equal(state, torch.get_rng_state())
    page = first.read_text(encoding="utf-8")
    assert ">Comparison</h2>" not in page
    assert ">Calibration</h2>" not in page
    again = avi.report(fits["full"], x, tmp_path / "b.html", draws=100, simulations=0)
    assert again.read_text(encoding="utf-8") == page


def test_names_are_text_and_not_markup(fits: avi.FamilyFits, x: Tensor, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    path = avi.report({name: fits["full"]}, x, tmp_path / "a.html", draws=100, simulations=0)
    assert name not in path.read_text(encoding="utf-8")


def test_a_model_that_cannot_be_simulated_is_told(tmp_path: Path) -> None:
    """Its data pass through a function before they are observed, so draws of the site are no draws of the argument."""
    import pyro
    from pyro import distributions as dist

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("log x", dist.Normal(z, 1.0).to_event(1), obs=x.exp().log1p())

    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=30, lr=0.02, seed=0, progress=False)
    page = avi.report(vi, x, tmp_path / "a.html", draws=100, simulations=100).read_text(encoding="utf-8")
    assert "The calibration could not be done" in page


def test_one_observation_is_enough(fits: avi.FamilyFits, x: Tensor, tmp_path: Path) -> None:
    page = avi.report(fits, x[:1], tmp_path / "a.html", draws=100, simulations=0).read_text(encoding="utf-8")
    assert "From one observation nothing can be said of differences" in page
    assert "shows from several observations only" in page


def test_numbers_in_tables() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a_b": [-0.00001, 1234.5, 0.0], "c": ["x", "y", "z"]}, index=["i", "j", "k"])
    table = tabled(frame, digits=2)
    assert list(table.header) == ["", "a b", "c"]
    assert [list(row) for row in table.rows] == [["i", "-1e-05", "x"], ["j", "1,234.50", "y"], ["k", "0.00", "z"]]


def test_arguments_are_checked_before_anything_is_done(fits: avi.FamilyFits, x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.html"
    with pytest.raises(OptionError, match="simulations must be 0 or at least 100"):
        avi.report(fits, x, path, simulations=5)
    with pytest.raises(OptionError, match="draws must be at least 21"):
        avi.report(fits, x, path, draws=20)
    with pytest.raises(OptionError, match="labels must be one an observation, 40 of them; got 3"):
        avi.report(fits, x, path, labels=[1, 2, 3])
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        avi.report(fits, x, path, draws=0)
    with pytest.raises(OptionError, match="fits must come from fit_families"):
        avi.report([fits["full"]], x, path)  # type: ignore[arg-type]  # what a user may try
    with pytest.raises(NotFittedError):
        avi.report(avi.AmortizedVI(MODEL, avi.encoders.MLP(3, [])), x, path)
    assert not path.parent.exists()


def test_without_jinja_the_error_names_the_extra(
    fits: avi.FamilyFits, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"amortvi\[report\]"):
        avi.report(fits["full"], x, tmp_path / "a.html", draws=100, simulations=0)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt install chromium)")
def test_a_browser_shows_it(path: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    run = subprocess.run(
        [
            BROWSER,
            *flags,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            path.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for title in TITLES:
        assert f">{title}</h2>" in run.stdout
    # A script of the test's own, in a copy of the page, says which pictures the browser could not show.
    script = "<script>onload=()=>document.body.dataset.broken=[...document.images].filter(i=>!i.naturalWidth).length</script>"
    probe = tmp_path / "probe.html"
    probe.write_text(path.read_text(encoding="utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
    run = subprocess.run(
        [
            BROWSER,
            *flags,
            f"--user-data-dir={tmp_path / 'second'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            probe.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 'data-broken="0"' in run.stdout
