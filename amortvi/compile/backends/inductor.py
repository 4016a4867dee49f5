"""A recorded graph, compiled with inductor, the compiler of PyTorch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor, fx

from amortvi._util.random import random_state
from amortvi.compile.backends.interpreter import Run
from amortvi.compile.backends.passes import apply_passes
from amortvi.errors import CaptureError, quoted

__all__ = ["compile_graph"]

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


_KEPT: OrderedDict[Hashable, Run] = OrderedDict()
_MOST_KEPT = 32
"""Compiled graphs are kept, because other fits of the same architecture, with other data or starting values, have the same
graphs."""


def compile_graph(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
    """Compile a graph for inputs of the given shapes, unless the same graph has been compiled before.

    Raises:
        CaptureError: the graph does not compile, or there is no C++ compiler.
    """
    key = _key(module, inputs)
    compiled = _KEPT.pop(key, None) or _compile(module, inputs)
    _KEPT[key] = compiled
    if len(_KEPT) > _MOST_KEPT:
        _KEPT.popitem(last=False)
    return compiled


def _key(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Hashable:
    """Return what determines the result of a graph, besides the values of its inputs."""
    constants = [getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"]
    values = tuple(
        constant.cpu().contiguous().view(torch.uint8).numpy().tobytes() for constant in map(_flat, constants)
    )
    described = tuple((t.dtype, t.device, t.shape, t.stride()) for t in (*constants, *inputs))
    return str(module.code), values, described


def _flat(constant: Tensor) -> Tensor:
    return constant.detach().reshape(-1)


def _compile(module: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
    """Compile a graph.

    Raises:
        CaptureError: the graph does not compile, or there is no C++ compiler.
    """
    # Imported here because it takes as long as all other imports together.
    import torch._inductor as inductor
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    device = inputs[0].device
    # Without a ShapeEnv, inductor would not look for the graph in its cache on disk.
    context = TracingContext(FakeTensorMode(shape_env=ShapeEnv()))
    try:
        with torch.no_grad(), random_state(0, device), _silenced(), tracing(context):
            compiled = inductor.compile(apply_passes(module, device), list(inputs), _options(device))
    except Exception as error:  # the compiler may raise anything; the step can always run without it
        raise CaptureError(_reason(error)) from error
    return lambda given: compiled(*given)


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
