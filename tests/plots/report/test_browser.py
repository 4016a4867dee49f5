"""The report in a browser: on a screen and on a phone, in the light and in the dark."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import amortvi as avi
from amortvi.plots.report import report

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OVERFLOW = """() => [...document.querySelectorAll('body *')]
    .filter(each => !each.closest('.scroll, svg') && each.getBoundingClientRect().right > window.innerWidth + 1)
    .map(each => each.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def address(fits: avi.FamilyFits, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return report(fits, x, path, labels=x[:, 0] > 0, draws=100, simulations=100).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off(browser: Any, address: str, width: int, scheme: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url) if request.url != address else None)
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOW) == []
    verdicts = page.locator("#comparison table").first.locator("tbody tr td:nth-child(2)")
    assert verdicts.count() == 2
    for position in range(2):
        box = verdicts.nth(position).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    # Chromium asks for no network; the icon is empty data.
    assert [message for message in messages if not message.startswith("data:")] == []
    assert contrast(page, "body") > 7
    assert min(contrast(page, f".{level} .label span") for level in ("warning",)) > 4.5
    assert page.locator("svg text").count() > 50
    page.close()


def contrast(page: Any, selector: str) -> float:
    """Return the contrast of the text with the page, as WCAG defines it."""
    color, paper = page.evaluate(
        "(name) => [getComputedStyle(document.querySelector(name)).color, getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    lighter, darker = sorted(map(_luminance, (color, paper)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_of_figures_is_legible_in_the_dark(browser: Any, address: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    fills = set(page.evaluate("[...document.querySelectorAll('svg text')].map(each => getComputedStyle(each).fill)"))
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert fills
    for fill in fills:
        lighter, darker = sorted(map(_luminance, (fill, paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) > 3, fill
    page.close()


def test_it_prints(browser: Any, address: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 700, "height": 900}, color_scheme="dark")
    page.goto(address)
    page.emulate_media(media="print")
    assert contrast(page, "body") > 7  # dark ink, whatever the theme of the screen
    assert not page.locator("nav").is_visible()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    page.close()
