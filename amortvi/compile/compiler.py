"""Compiles a recorded graph with inductor, PyTorch's compiler."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.compile.recording import Recording
from amortvi.compile.rewriting import rewritten
from amortvi.errors import CaptureError, quoted

__all__ = ["Compiled", "compile_recording"]

Compiled = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A compiled function: takes its arguments in one list."""

_OPTIONS = {
    # The same random numbers as PyTorch draws without compiling.
    "fallback_random": True,
    # The arguments of a step are looked at before the call, once for all.
    "size_asserts": False,
    "alignment_asserts": False,
    # A change of the order could change which random numbers go where.
    "reorder_for_peak_memory": False,
}
_CPU_OPTIONS = {
    # The calls between the kernels in C++ too, and one piece of memory for all that is between: a quarter less time a step.
    "cpp_wrapper": True,
    "memory_planning": True,
}


def compile_recording(recording: Recording, arguments: Sequence[Tensor]) -> Compiled:
    """Compile a recording for arguments like these.

    Args:
        recording: the graph.
        arguments: an example of its arguments.

    Returns:
        A function of a list of arguments that reads and writes ``recording.outside`` in place.

    Raises:
        CaptureError: the graph does not compile, or there is no C++ compiler.
    """
    # Imported where it is used: it takes as long as all the rest.
    import torch._inductor as inductor

    outside = [tensor.detach() for tensor in recording.outside]
    device = arguments[0].device
    try:
        with torch.no_grad(), random_state(0, device), _quiet():
            compiled = inductor.compile(
                rewritten(recording.graph),
                [*(argument.detach() for argument in arguments), *outside],
                _options(device),
            )
    except Exception as error:
        raise CaptureError(_why(error)) from error
    results = recording.results

    flushed_before = flushes_denormals()

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        # Averages of gradients that are zero fade into numbers below 1e-38, which take a processor a hundred times as long.
        torch.set_flush_denormal(True)
        try:
            with torch.no_grad():
                return compiled(*given, *outside)[:results]
        finally:
            torch.set_flush_denormal(flushed_before)

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the compiler warns and logs of: it is not about what the user wrote."""
    log = logging.getLogger("torch._inductor")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def flushes_denormals() -> bool:
    """Whether this thread takes numbers too small for full precision as zero, as `torch.set_flush_denormal` has it."""
    return bool(torch.tensor(1e-40) * 1 == 0)


def _options(device: torch.device) -> dict[str, object]:
    from torch._inductor import list_options

    # A name that this version of inductor does not have is one that it does not need.
    wanted = _OPTIONS | _CPU_OPTIONS if device.type == "cpu" else _OPTIONS
    return {name: value for name, value in wanted.items() if name in list_options()}


def _why(error: Exception) -> str:
    kinds = {type(cause).__name__ for cause in _causes(error)}
    if "InvalidCxxCompiler" in kinds:
        return (
            "compiling needs a C++ compiler, and none was found on this machine: install g++ or clang, set CXX to one, or "
            "leave compiling out with compile=False."
        )
    return (
        f"the recorded step could not be compiled: {quoted(error, lines=4)}. Leave compiling out with compile=False, and "
        f"please report the model."
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__ or getattr(error, "inner_exception", None)
    return found
