"""The competitors of the two questions about one training step, which differ in the problem alone."""

from __future__ import annotations

import warnings

from pyro.infer import JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO

from benchmarks import by_hand, ours, pyro_svi
from benchmarks.harness import Competitor, measure
from benchmarks.problems import Problem
from benchmarks.report import Ratio, report
from benchmarks.settings import Settings

__all__ = ["BY_HAND", "COMPILED", "NUMPYRO_EPOCHS", "PYRO", "TORCH_COMPILED", "ask"]

PYRO = "Pyro SVI, Trace_ELBO"
BY_HAND = "PyTorch by hand"
TORCH_COMPILED = "PyTorch by hand, torch.compile"
NUMPYRO_EPOCHS = "NumPyro, epoch in fori_loop"
COMPILED = "amortvi fit, compiled"
_NUMPYRO_SAMPLED = f"{NUMPYRO_EPOCHS}, sampled KL"


def ask(settings: Settings, problem: Problem, asked: dict[str, float]) -> None:
    """Measure the competitors on a problem and report.

    Args:
        settings: how to measure.
        problem: what they train.
        asked: for competitors by name, how many times as long as the compiled fit they are to take at least.
    """
    # torch.jit is deprecated, and warns at each of its uses.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*")
    epochs = settings.epochs
    competitors = {
        PYRO: pyro_svi.svi(problem, epochs, Trace_ELBO()),
        "Pyro SVI, TraceMeanField_ELBO": pyro_svi.svi(problem, epochs, TraceMeanField_ELBO()),
        "Pyro SVI, JitTrace_ELBO": pyro_svi.svi(problem, epochs, JitTrace_ELBO(ignore_jit_warnings=True)),
        "Pyro's loss, fused Adam, no checks": pyro_svi.loop_around_loss(problem, epochs),
        BY_HAND: by_hand.eager(problem, epochs),
        TORCH_COMPILED: by_hand.torch_compiled(problem, epochs),
    }
    numpyro, skipped = _numpyro(problem, epochs)
    competitors |= numpyro
    competitors |= {
        "amortvi fit, eager": ours.fits(problem, epochs, compile=False),
        COMPILED: ours.fits(problem, epochs, compile=True),
        f"{COMPILED}, progress bar": ours.fits(problem, epochs, compile=True, progress=True),
    }
    if NUMPYRO_EPOCHS in asked:
        asked = {**asked, _NUMPYRO_SAMPLED: asked[NUMPYRO_EPOCHS]}
    ratios = [Ratio(name, COMPILED, at_least=asked.get(name)) for name in competitors if name != COMPILED]
    times = measure(competitors, steps=epochs * problem.steps, repetitions=settings.repetitions)
    report(settings, times, ratios, competitors=competitors, skipped=skipped, notes=problem.notes)


def _numpyro(problem: Problem, epochs: int) -> tuple[dict[str, Competitor], dict[str, str]]:
    """Return NumPyro's competitors, or who is missing and why."""
    try:
        from numpyro.infer import Trace_ELBO as SampledKL
        from numpyro.infer import TraceMeanField_ELBO as ExactKL

        from benchmarks import numpyro_svi
    except ImportError as error:
        return {}, {"NumPyro": f"{error}; pip install 'amortvi[bench]'"}
    return {
        "NumPyro, a jitted step": numpyro_svi.stepwise(problem, epochs, ExactKL()),
        NUMPYRO_EPOCHS: numpyro_svi.whole_epochs(problem, epochs, ExactKL()),
        _NUMPYRO_SAMPLED: numpyro_svi.whole_epochs(problem, epochs, SampledKL()),
    }, {}
