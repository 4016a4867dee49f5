"""Runs a piece of Python in a fresh process and reads the number that it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ROOT", "printed_number"]

ROOT = Path(__file__).resolve().parents[1]


def printed_number(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Run ``python *arguments`` in the root of the repository and return the number in its last line.

    Args:
        arguments: for the interpreter that runs this.
        environment: variables to set beside those of this process.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])
