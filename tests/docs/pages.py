"""The Python code of a page of the documentation, run as it stands."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NOT_RUN = "# not run"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
RAISED = re.compile(r"(?P<name>\w+(?:Error|Warning|Diverged)): (?P<message>.*)", re.DOTALL)
SEED = re.compile(r"(?P<call>\bseed=|\bseeds=\[|\bmanual_seed\(|\bdefault_rng\(|\brandom_state=)0\b")
CELL_OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[^\n]*\n)+)", re.MULTILINE | re.DOTALL)

quiet = pytest.mark.filterwarnings(
    # Which k-hats and r-hats are too large, and which latents are inactive, depends on the seed; the pages explain both.
    "ignore::amortvi.errors.AmortviWarning",
    "ignore:Estimated shape parameter of Pareto distribution:UserWarning",
    # Lightning's advice on loaders, and its use of a deprecated function of torch.
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec.*:FutureWarning",
    # Pages show their figures, and tests have nowhere to show them.
    "ignore:FigureCanvasAgg is non-interactive:UserWarning",
)
"""Marks a test that runs pages."""


@dataclass(frozen=True)
class Block:
    """A Python block of a page.

    Args:
        page: the page, relative to the root of the project.
        line: the line at which it starts.
        code: the code.
        raises: the error or warning that the page shows below it, such as ``"DataError: x has ..."``, or ``None``.
    """

    page: str
    line: int
    code: str
    raises: str | None = None

    def compiled(self, seed: int = 0) -> Any:
        """Compile the block with another seed in place of 0."""
        code = SEED.sub(rf"\g<call>{seed}", self.code)
        # Preceded by empty lines, so that a traceback names the line of the page.
        return compile("\n" * self.line + code, str(ROOT / self.page), "exec")

    @property
    def runs(self) -> bool:
        return NOT_RUN not in self.code.splitlines()


def blocks(page: str) -> list[Block]:
    """Return the Python blocks and executed cells of a page."""
    text = (ROOT / page).read_text()
    fences = list(FENCE.finditer(text))
    found = []
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        if fence["info"] != "python" and not fence["info"].startswith("{code-cell}"):
            continue
        options = CELL_OPTIONS.match(fence["code"]) if fence["info"] != "python" else None
        code = fence["code"][options.end() :] if options else fence["code"]
        start = fence.start("code") + (options.end() if options else 0)
        shown = following if following and not text[fence.end() : following.start()].strip() else None
        raises = shown["code"] if shown and shown["info"] == "text" and RAISED.match(shown["code"]) else None
        found.append(Block(page, text.count("\n", 0, start), code, raises))
    return found


def run(page: str, seed: int = 0) -> dict[str, Any]:
    """Run the blocks of a page in one namespace, and return it.

    Args:
        page: the page, relative to the root of the project.
        seed: replaces the seed 0 wherever the page gives one; what has no seed depends on it too.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    torch.manual_seed(seed)
    for block in blocks(page):
        code = block.compiled(seed)
        if block.runs and block.raises is None:
            exec(code, namespace)
        elif block.runs:
            check_raises(block, code, namespace)
    return namespace


def check_raises(block: Block, code: Any, namespace: dict[str, Any]) -> None:
    """Check that a block raises what the page shows: lines may be broken differently, and ``...`` stands for any text."""
    shown = RAISED.match(block.raises or "")
    assert shown is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the type is compared below
            exec(code, namespace)
    where = f"{block.page}:{block.line + 1}"
    assert type(caught.value).__name__ == shown["name"], f"{where}: {caught.value!r}"
    expected, got = (" ".join(message.split()) for message in (shown["message"], str(caught.value)))
    pattern = ".*".join(re.escape(part.strip()) for part in expected.split("..."))
    assert re.fullmatch(pattern, got, re.DOTALL), f"{where} shows:\n{expected}\nbut this is raised:\n{got}"


def pages(pattern: str) -> list[str]:
    """Return the pages that have Python blocks, such as those of ``"docs/how-to/*.md"``."""
    found: Iterator[str] = (str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(pattern)))
    return [page for page in found if blocks(page)]
