"""The competitors of the questions about the time of one training step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from pyro.infer import JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO

from benchmarks.competitors import amortvi_fit, pyro_svi, pytorch
from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor, Ratio, Settings, measure, report

__all__ = [
    "COMPILED",
    "EAGER",
    "NUMPYRO_EPOCHS",
    "PYRO",
    "PYTORCH",
    "TORCH_COMPILE",
    "compare_on_cpu",
    "ratios_to_compiled_fit",
]

PYRO = "Pyro SVI, Trace_ELBO"
PYTORCH = "PyTorch by hand"
TORCH_COMPILE = "PyTorch by hand, torch.compile"
NUMPYRO_EPOCHS = "NumPyro, epoch in fori_loop"
EAGER = "amortvi fit, eager"
COMPILED = "amortvi fit, compiled"
_NUMPYRO_SAMPLED = f"{NUMPYRO_EPOCHS}, sampled KL"


def compare_on_cpu(settings: Settings, problem: Problem, targets: Mapping[str, float]) -> None:
    """Measure all competitors on a problem, and report.

    Args:
        settings: how to measure.
        problem: the model and the data.
        targets: for some competitors, by what factor the compiled fit should be faster.
    """
    # torch.jit is deprecated and issues a warning at each use.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*")
    epochs = settings.epochs
    competitors = {
        PYRO: pyro_svi.svi(problem, epochs, Trace_ELBO()),
        "Pyro SVI, TraceMeanField_ELBO": pyro_svi.svi(problem, epochs, TraceMeanField_ELBO()),
        "Pyro SVI, JitTrace_ELBO": pyro_svi.svi(problem, epochs, JitTrace_ELBO(ignore_jit_warnings=True)),
        "Pyro's loss, fused Adam, no validation": pyro_svi.loop_around_loss(problem, epochs),
        PYTORCH: pytorch.training_loop(problem, epochs),
        TORCH_COMPILE: pytorch.training_loop(problem, epochs, compile=True),
    }
    numpyro, skipped = _numpyro(problem, epochs)
    competitors |= numpyro
    competitors |= {
        EAGER: amortvi_fit.fits(problem, epochs, compile=False),
        COMPILED: amortvi_fit.fits(problem, epochs),
        f"{COMPILED}, progress bar": amortvi_fit.fits(problem, epochs, progress=True),
    }
    times = measure(competitors, steps=epochs * problem.steps, repetitions=settings.repetitions)
    ratios = ratios_to_compiled_fit(competitors, targets)
    report(settings, times, ratios, competitors=competitors, skipped=skipped, notes=problem.notes)


def ratios_to_compiled_fit(competitors: Iterable[str], targets: Mapping[str, float]) -> list[Ratio]:
    """Return the ratio of each competitor to the compiled fit, with its target if it has one."""
    same_target = {_NUMPYRO_SAMPLED: NUMPYRO_EPOCHS}
    return [
        Ratio(name, COMPILED, at_least=targets.get(same_target.get(name, name)))
        for name in competitors
        if name != COMPILED
    ]


def _numpyro(problem: Problem, epochs: int) -> tuple[dict[str, Competitor], dict[str, str]]:
    """Return the competitors of NumPyro, or the reason why they are missing."""
    try:
        # Imported here because NumPyro is optional, and because JAX must not be imported before the cores are assigned.
        from numpyro.infer import Trace_ELBO as SampledKL
        from numpyro.infer import TraceMeanField_ELBO as ExactKL

        from benchmarks.competitors import numpyro_svi
    except ImportError as error:
        return {}, {"NumPyro": f"{error}; pip install 'amortvi[bench]'"}
    return {
        "NumPyro, one jitted step": numpyro_svi.stepwise(problem, epochs, ExactKL()),
        NUMPYRO_EPOCHS: numpyro_svi.whole_epochs(problem, epochs, ExactKL()),
        _NUMPYRO_SAMPLED: numpyro_svi.whole_epochs(problem, epochs, SampledKL()),
    }, {}
