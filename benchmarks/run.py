"""Run every benchmark in this folder, one after the other."""

from __future__ import annotations

import runpy
from pathlib import Path


def main() -> None:
    """Run the scripts in the order of their names."""
    here = Path(__file__).parent
    for script in sorted(here.glob("*.py")):
        if script.name != Path(__file__).name:
            print(f"\n=== {script.stem}")
            runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
