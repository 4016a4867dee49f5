"""A fit in which the second process dies without a word; the first one writes which error it gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import amortvi as avi
from tests.distributed.fits import Rows, X, make_vi, run


class Deadly(Rows):
    def __getitem__(self, row: int) -> object:
        if os.environ["RANK"] == "1" and len(self.read) > 700:
            os._exit(1)
        return super().__getitem__(row)


if __name__ == "__main__":
    try:
        run(make_vi(), Deadly(X), True, epochs=50)
    except avi.errors.AmortviError as error:
        (Path(sys.argv[1]) / "survivor").write_text(type(error).__name__)
