"""When the steps of a fit are recorded and compiled, and what happens if that is impossible or wrong."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from amortvi.compile import COMPILE_AFTER, RECORD_AFTER, CompileChoice, MismatchError, Verify
from amortvi.errors import AmortviWarning, CaptureError, VerificationWarning

__all__ = ["Policy"]


@dataclass
class Policy:
    """When the steps of one fit are recorded and compiled, and what happens if that is impossible.

    Args:
        choice: record after some steps (``"auto"``), or record and compile from the second step (``True``).
        verify: whether a graph that differs from the eager step leads to a warning or to an error.
        gave_up: whether the fit continues eagerly.
        compiles: whether graphs can be compiled, as far as is known.
    """

    choice: CompileChoice
    verify: Verify
    gave_up: bool = False
    compiles: bool = True

    @property
    def record_after(self) -> int:
        """The number of eager steps before a shape is recorded."""
        return 1 if self.choice is True else RECORD_AFTER

    @property
    def compile_after(self) -> int:
        """The number of recorded steps before a shape is compiled."""
        return 0 if self.choice is True else COMPILE_AFTER

    def refuse(self, error: CaptureError) -> None:
        """Continue eagerly with one warning, or raise ``error`` if compiling was asked for."""
        if self.choice is True:
            raise error
        self._give_up(f"this fit runs without compiling: {error}", AmortviWarning)

    def keep_interpreting(self, error: CaptureError) -> None:
        """Continue with graphs that are not compiled, with one warning, or raise ``error`` if compiling was asked for."""
        if self.choice is True:
            raise error
        self.compiles = False
        warnings.warn(f"this fit runs as a graph that is not compiled: {error}", AmortviWarning, stacklevel=2)

    def report(self, mismatch: MismatchError) -> None:
        """Continue eagerly because a graph differs from the eager step; raise the error if that was asked for."""
        if isinstance(mismatch.error, CaptureError):
            self.refuse(mismatch.error)
            return
        if self.verify == "error":
            raise mismatch.error
        self._give_up(
            f"the last {mismatch.unverified} compiled steps may be wrong, and this fit continues without compiling: "
            f"{mismatch.error}",
            VerificationWarning,
        )

    def _give_up(self, message: str, category: type[Warning]) -> None:
        if not self.gave_up:
            self.gave_up = True
            warnings.warn(message, category, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been found out about the steps."""
        return {"gave_up": self.gave_up, "compiles": self.compiles}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned."""
        self.gave_up, self.compiles = state["gave_up"], state["compiles"]
