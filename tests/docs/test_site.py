"""The built documentation in a browser (Chromium), at the widths of a desk and of a telephone; run by `make test-docs`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

SITE = ROOT / "docs" / "_build" / "html"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
WIDTHS = [1280, 390]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the documentation is not built: make docs"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH"),
]

# What sticks out of the window and is not inside a box that scrolls.
STICKS_OUT = """() => [...document.querySelectorAll("article *")].filter(element => {
    if (element.getBoundingClientRect().right <= window.innerWidth + 1) return false;
    if (element.closest("mjx-assistive-mml") || !element.getClientRects().length) return false;
    for (let box = element; box && box.tagName !== "ARTICLE"; box = box.parentElement)
        if (getComputedStyle(box).overflowX !== "visible" && box.getBoundingClientRect().right <= window.innerWidth + 1)
            return false;
    return true;
}).map(element => element.outerHTML.slice(0, 100))"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do not write every request to stderr."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    yield context.new_page()
    context.close()


def built(pattern: str = "**/*.html") -> list[str]:
    """Return the pages of the site, relative to it."""
    return sorted(str(path.relative_to(SITE)) for path in SITE.glob(pattern) if "_static" not in path.parts)


def tutorials() -> list[str]:
    return [name for name in built("tutorials/*.html") if not name.endswith("index.html")]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_works(width: int, page: Any, url: str) -> None:
    """No page scrolls sideways, reports an error, misses a picture or asks another server for anything."""
    found: list[str] = []
    page.set_viewport_size({"width": width, "height": 800})
    page.on("console", lambda message: message.type == "error" and found.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("requestfailed", lambda request: found.append(f"failed: {request.url}"))
    page.on("request", lambda request: request.url.startswith((url, "data:")) or found.append(f"asks: {request.url}"))
    page.on("response", lambda answer: answer.status >= 400 and found.append(f"{answer.status}: {answer.url}"))
    faults = {}
    for name in built():
        page.goto(f"{url}/{name}")
        if page.locator(".math").count():
            page.wait_for_load_state("networkidle")
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            found.append("the page scrolls sideways")
        found += [f"sticks out: {element}" for element in page.evaluate(STICKS_OUT)[:3]]
        found += page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => `no picture: ${i.src}`)")
        if found:
            faults[name] = found[:]
        found.clear()
    assert not faults


def test_formulas_are_typeset(page: Any, url: str) -> None:
    page.goto(f"{url}/mathematics.html")
    page.wait_for_selector("article mjx-container")
    assert page.locator("article mjx-merror").count() == 0


@pytest.mark.parametrize("term", ["FullCovariance", "fit_families", "DataError"])
def test_search_finds(term: str, page: Any, url: str) -> None:
    page.goto(f"{url}/search.html?q={term}")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any(f"#amortvi.{term}" in link or f".{term}" in link for link in found)


def test_code_is_copied(page: Any, url: str) -> None:
    page.goto(f"{url}/quickstart.html")
    page.wait_for_selector("button.copybtn", state="attached")
    block = page.locator("div.highlight-python").first
    block.hover()
    block.locator("button.copybtn").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.length > 0)")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == block.locator("pre").inner_text().strip()
    compile(copied, "quickstart", "exec")


def test_tutorials_show_results_and_can_be_downloaded(page: Any, url: str, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    assert tutorials()
    for name in tutorials():
        page.goto(f"{url}/{name}")
        assert page.locator(".cell_output img, .cell_output table").count() > 0, name
        with page.expect_download() as download:
            page.click(".notebook-download a")
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert any("import amortvi" in source for source in code), name
        assert not any("](../" in cell.source and ".md" in cell.source for cell in notebook.cells), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_legible_in_both_modes(scheme: str, page: Any, url: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{url}/{tutorials()[0]}")
    background = "image => getComputedStyle(image).backgroundColor"
    assert page.locator(".cell_output img").first.evaluate(background) == "rgb(255, 255, 255)"


def test_each_page_has_a_social_card(page: Any, url: str) -> None:
    page.goto(f"{url}/index.html")
    card = page.locator('meta[property="og:image"]').get_attribute("content")
    assert card
    assert (SITE / card.split("amortvi/", 1)[-1]).exists()
