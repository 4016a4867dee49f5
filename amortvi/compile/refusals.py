"""What the user is told of a step that cannot be recorded: the reason, the line that it is about, the last Pyro site."""

from __future__ import annotations

import linecache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger

from amortvi.errors import CaptureError, quoted

__all__ = ["READS_VALUE", "SIZE_VARIES", "VARIES", "LastSite", "refusal", "refusal_of", "user_line"]

_STANDARD = Path(linecache.__file__).parent
# Everything whose code is not the user's.
_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (torch, pyro, np)),
    str(Path(__file__).parents[1]),
    str(_STANDARD / "contextlib.py"),
    str(_STANDARD / "functools.py"),
)

_RECORDING = str(Path(__file__).with_name("recording.py"))

READS_VALUE = (
    "it reads the value of a tensor into Python (with if, float(), .item(), .numpy() or the like), and a recorded graph "
    "would keep that one value for ever. Write it with tensor operations, such as torch.where"
)
VARIES = (
    "it does not do the same at each call, and a recorded graph would keep one of them for ever. Draw random numbers with "
    "torch, and keep numbers that change in tensors"
)
SIZE_VARIES = (
    "the size of its result depends on the values in a tensor. Use torch.where, or multiply by a mask, so that sizes are "
    "always the same"
)


class LastSite(Messenger):
    """Remembers the name of the last Pyro site that was met inside."""

    name: str | None = None

    def __enter__(self) -> LastSite:
        self.name = None
        super().__enter__()
        return self

    def _pyro_sample(self, msg: Any) -> None:
        self.name = msg["name"]


def refusal(reason: str, line: str | None, site: str | None = None) -> CaptureError:
    """Return the error for what a graph cannot hold.

    Args:
        reason: why it cannot, and what to write instead.
        line: the user's line, where it is known.
        site: the last Pyro site that was met.
    """
    where = f" at {line}" if line else ""
    after = f" (The last site: {site!r}.)" if site else ""
    return CaptureError(
        f"the step cannot be recorded as one graph{where}: {reason}, or leave compiling out with compile=False.{after}"
    )


def refusal_of(error: BaseException, site: str | None) -> CaptureError:
    """Return what to tell the user of ``error``, which ended a recording.

    Args:
        error: what was raised; what it was raised from counts.
        site: the last Pyro site that was met.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CaptureError):
        return error
    reads = "get value out of a tracing tensor" in str(error)
    reason = READS_VALUE if reads else f"it fails while it is recorded: {quoted(error, lines=3)}"
    line, traceback = None, error.__traceback__
    while traceback is not None:
        line = _described(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno) or line
        traceback = traceback.tb_next
    return refusal(reason, line, site)


def user_line(frame: FrameType | None) -> str | None:
    """Describe the innermost line outside the libraries, no further out than the recording."""
    while frame is not None and frame.f_code.co_filename != _RECORDING:
        line = _described(frame.f_code.co_filename, frame.f_lineno)
        if line is not None:
            return line
        frame = frame.f_back
    return None


def _described(file: str, number: int) -> str | None:
    if file.startswith(_LIBRARIES) or file.startswith("<eval_with_key>"):
        return None
    source = linecache.getline(file, number).strip()
    return f"{Path(file).name}, line {number}" + (f" (`{source}`)" if source else "")
