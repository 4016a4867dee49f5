"""One whole training call, alone in its process: ``python -m benchmarks.competitors.training_call NAME PROBLEM STEPS``.

It prints the seconds from the construction of the model to the end of training, and the ELBO of the last epoch. The
import statements of the program and the loading of the data are not timed; what a library imports or compiles during
the call is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pyro.infer import Trace_ELBO

from amortvi.compile import CompileChoice
from benchmarks.competitors import amortvi_fit, problem, pyro_svi, pytorch
from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor

__all__ = ["EAGER", "FIT", "NUMPYRO", "PROBLEMS", "PYRO", "PYTORCH"]

PYRO = "Pyro SVI"
PYTORCH = "PyTorch by hand"
NUMPYRO = "NumPyro, epoch in scan"
EAGER = "fit, eager"
FIT = "fit"

PROBLEMS: dict[str, Callable[[], Problem]] = {"48-80-6": problem.cropped, "784-400-50": problem.large}
"""The problems by their features, hidden units and latents."""


def main(name: str, architecture: str, steps: int) -> None:
    """Train ``architecture`` for a number of steps with the competitor ``name``."""
    train_with = _trainer(name)
    data = PROBLEMS[architecture]()
    epochs, rest = divmod(steps, data.steps)
    if rest:
        raise ValueError(f"an epoch of {architecture} has {data.steps} steps, so {steps} steps are not whole epochs")
    start = time.perf_counter()
    competitor = train_with(data, epochs)
    competitor.run()
    seconds = time.perf_counter() - start
    print(seconds, competitor.elbo() if competitor.elbo else float("nan"))


def _trainer(name: str) -> Callable[[Problem, int], Competitor]:
    """Return the function that constructs the competitor ``name``."""
    if name == NUMPYRO:
        # Only this process imports JAX, and NumPyro is optional.
        from numpyro.infer import TraceMeanField_ELBO

        from benchmarks.competitors import numpyro_svi

        return lambda data, epochs: numpyro_svi.whole_epochs(data, epochs, TraceMeanField_ELBO())
    return {
        PYRO: lambda data, epochs: pyro_svi.svi(data, epochs, Trace_ELBO()),
        PYTORCH: pytorch.training_loop,
        EAGER: lambda data, epochs: _fit_with_defaults(data, epochs, compile=False),
        FIT: lambda data, epochs: _fit_with_defaults(data, epochs, compile="auto"),
    }[name]


def _fit_with_defaults(data: Problem, epochs: int, *, compile: CompileChoice) -> Competitor:
    """Return a fit with the defaults of `AmortizedVI.fit` but for ``compile``."""
    return amortvi_fit.fits(data, epochs, compile=compile, progress=True, seed=None)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
