"""The how-tos and guides run as they stand, and the errors that they show are those that are raised."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, pages, quiet, run

HOW_TOS = pages("docs/how-to/*.md")


@quiet
@pytest.mark.parametrize("page", [*HOW_TOS, "docs/troubleshooting.md"])
def test_page_runs(page: str) -> None:
    run(page)


@pytest.mark.parametrize("page", HOW_TOS)
def test_page_is_listed(page: str) -> None:
    name = page.rsplit("/", 1)[-1].removesuffix(".md")
    assert f"\n{name}\n" in (ROOT / "docs/how-to/index.md").read_text()


@pytest.mark.parametrize("page", HOW_TOS)
def test_page_has_one_task_and_a_link(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 70
    assert "](../" in text, "no link to the reference or to a guide"
