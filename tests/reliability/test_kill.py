"""Processes that are killed lose nothing; see `tests.reliability.kill`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it has forked")


def run(*options: str) -> list[int]:
    """Return how often something was lost, in each part."""
    command = [sys.executable, "-m", "tests.reliability.kill", *options]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(count) for count in re.findall(r"lost: (\d+)", done.stdout)]


def test_a_few_kills_lose_nothing() -> None:
    assert run("--kills", "5", "--compiled", "0", "--saves", "20", "--interrupts", "10") == [0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kills_lose_nothing() -> None:
    assert run() == [0, 0, 0, 0, 0]
