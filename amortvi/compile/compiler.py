"""Compilation of a recorded graph with inductor, the compiler of PyTorch."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.compile.passes import apply_passes
from amortvi.compile.recording import Recording
from amortvi.errors import CaptureError, quoted

__all__ = ["Compiled", "compile_recording", "flushes_denormals"]

Compiled = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A compiled function; it takes its arguments as one list."""

_OPTIONS = {
    # Draw the same random numbers as PyTorch does without compiling.
    "fallback_random": True,
    # The caller finds the graph by the shapes of the arguments, so they need no second check.
    "size_asserts": False,
    "alignment_asserts": False,
    # Another order of the operations could assign the random numbers differently.
    "reorder_for_peak_memory": False,
}
_CPU_OPTIONS = {
    # Launch the kernels from C++ and allocate all intermediate results at once: a quarter less time per step.
    "cpp_wrapper": True,
    "memory_planning": True,
}


def compile_recording(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
    """Compile a recording for arguments of the given shapes; the result reads and writes ``recording.outside`` in place.

    Raises:
        CaptureError: the graph does not compile, or there is no C++ compiler.
    """
    # Imported here because it takes as long as all other imports together.
    import torch._inductor as inductor

    outside = [tensor.detach() for tensor in recording.outside]
    device = arguments[0].device
    try:
        with torch.no_grad(), random_state(0, device), _silenced():
            compiled = inductor.compile(
                apply_passes(recording.graph),
                [*(argument.detach() for argument in arguments), *outside],
                _options(device),
            )
    except Exception as error:  # the compiler may raise anything; the step can always run without it
        raise CaptureError(_reason(error)) from error
    results = recording.results

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        # Moving averages of gradients that are zero decay to denormal numbers, with which a CPU computes a hundred times slower.
        # The caller's mode is read in each call, because it may have changed since the compilation.
        flushes = flushes_denormals()
        torch.set_flush_denormal(True)
        try:
            with torch.no_grad():
                return compiled(*given, *outside)[:results]
        finally:
            torch.set_flush_denormal(flushes)

    return run


def flushes_denormals() -> bool:
    """Return whether this thread flushes denormal numbers to zero (`torch.set_flush_denormal`); takes less than 100 ns."""
    # Both factors are normal numbers. Python does not compute the product in advance, as it would with two literals.
    return sys.float_info.min * 0.5 == 0.0


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the warnings and log messages of the compiler, which do not concern the user's code."""
    log = logging.getLogger("torch._inductor")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _options(device: torch.device) -> dict[str, object]:
    from torch._inductor import list_options

    # Versions of inductor that lack an option do not need it.
    wanted = _OPTIONS | _CPU_OPTIONS if device.type == "cpu" else _OPTIONS
    return {name: value for name, value in wanted.items() if name in list_options()}


def _reason(error: Exception) -> str:
    if "InvalidCxxCompiler" in {type(cause).__name__ for cause in _causes(error)}:
        return (
            "compiling needs a C++ compiler, and none was found on this machine: install g++ or clang, set CXX to its path, or "
            "use compile=False."
        )
    return f"the recorded step could not be compiled: {quoted(error, lines=4)}. Use compile=False, and please report the model."


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__ or getattr(error, "inner_exception", None)
    return found
