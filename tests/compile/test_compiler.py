"""Compiled code runs with denormals flushed, restores the caller's mode, and explains why it cannot be compiled."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler

from amortvi.compile.compiler import compile_recording, flushes_denormals
from amortvi.compile.recording import record
from amortvi.errors import CaptureError

X = torch.full((4,), 1e-20)


def squared(x: Tensor) -> list[Tensor]:
    return [x * x]  # 1e-40 is a denormal number in single precision


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("when_compiled", [False, True])
@pytest.mark.parametrize("when_run", [False, True])
def test_a_step_flushes_denormals_and_restores_the_mode_in_which_it_was_called(
    when_run: bool, when_compiled: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    try:
        torch.set_flush_denormal(when_compiled)
        compiled = compile_recording(record(squared, [X], [X + 1]), [X])
        torch.set_flush_denormal(when_run)
        if fails:
            with pytest.raises(TypeError):
                compiled([X, X])
        else:
            assert (compiled([X])[0] == 0).all()
        assert flushes_denormals() == when_run
        assert bool(squared(X)[0][0] == 0) == when_run
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InvalidCxxCompiler(), r"needs a C\+\+ compiler"), (ValueError(), "RuntimeError: inductor failed")],
    ids=["no compiler", "another error"],
)
def test_the_error_explains_why_a_graph_does_not_compile(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("inductor failed") from error

    monkeypatch.setattr(torch._inductor, "compile", fail)
    with pytest.raises(CaptureError, match=f"{reason}.*compile=False"):
        compile_recording(record(squared, [X], [X + 1]), [X])
