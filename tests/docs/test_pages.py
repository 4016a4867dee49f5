"""The Python code in the documentation runs, in order, whatever the seed."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, SEED, Block, blocks, check_raises, pages, quiet, run

TOURS = ["README.md", "CONTRIBUTING.md", "docs/quickstart.md"]

EXECUTED = ["docs/choosing.md", "docs/results.md", *pages("docs/tutorials/*.md")]
"""Pages that the build of the documentation executes, each of which takes up to half a minute."""


def test_blocks_are_found_with_their_lines() -> None:
    first = blocks("docs/quickstart.md")[0]
    assert (ROOT / first.page).read_text().splitlines()[first.line] == first.code.splitlines()[0]
    fences = (ROOT / first.page).read_text().count("```python")
    assert len(blocks(first.page)) == fences


@pytest.mark.parametrize(
    ("shown", "agrees"),
    [
        ("ValueError: 3 rows\nare missing", True),
        ("ValueError: ... are missing", True),
        ("ValueError: 3 rows ...", True),
        ("ValueError: 4 rows are missing", False),
        ("ValueError: 3 rows", False),
        ("TypeError: 3 rows are missing", False),
    ],
)
def test_shown_error_is_compared_with_the_one_raised(shown: str, agrees: bool) -> None:
    block = Block("page.md", 0, "raise ValueError('3 rows are missing')", shown)
    if agrees:
        check_raises(block, block.compiled(), {})
    else:
        with pytest.raises(AssertionError, match=r"page\.md:1"):
            check_raises(block, block.compiled(), {})


def test_seed_is_replaced_wherever_it_is_given() -> None:
    code = "a = (torch.manual_seed(0), dict(seed=0, seeds=[0], lr=0), np.random.default_rng(0))"
    constants = Block("page.md", 0, code).compiled(7).co_consts
    assert 7 in constants
    assert code.count("0") - 1 == SEED.sub(r"\g<call>7", code).count("7")


@quiet
@pytest.mark.parametrize("page", TOURS)
def test_page_runs(page: str) -> None:
    assert blocks(page), f"{page} has no Python block"
    run(page)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 20))
@pytest.mark.parametrize("page", [*TOURS, *pages("docs/how-to/*.md"), "docs/troubleshooting.md"])
def test_page_runs_with_any_seed(page: str, seed: int) -> None:
    run(page, seed)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("page", EXECUTED)
def test_executed_page_runs_with_other_seeds(page: str, seed: int) -> None:
    run(page, seed)
