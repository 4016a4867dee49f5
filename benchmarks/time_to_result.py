"""How long does a whole training call take in a fresh process, compared with Pyro, plain PyTorch and NumPyro?

Two VAEs: 48-80-6 on 1,260 cropped digits in batches of 64, and 784-400-50 on 12,800 images of MNIST in batches of 128.
A call is timed from the construction of the model to its return, without imports and data. The fit has its default
options, with an empty and with a warm cache of compiled code; it is warm if the longest of the calls was made before.

Each library computes on one thread, and may compile on all cores. Three repetitions take about an hour;
``--rows 300,1400 --problems 48-80-6`` measures a part.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.competitors.training_call import EAGER, FIT, NUMPYRO, PROBLEMS, PYRO, PYTORCH
from benchmarks.harness import Competitor, Ratio, Settings, interleave, printed_numbers, report, start

ROWS = {"48-80-6": (300, 1_400, 5_000, 20_000), "784-400-50": (300, 1_400, 5_000)}
"""The numbers of training steps; 20,000 steps of the large model would take several minutes."""

EMPTY, WARM = f"{FIT}, empty cache", f"{FIT}, warm cache"

TARGETS: dict[str, dict[tuple[str, str], dict[int, float]]] = {
    "48-80-6": {
        (PYRO, WARM): {300: 1.3, 1_400: 2.5, 5_000: 5.0, 20_000: 10.0},
        (PYRO, EMPTY): {300: 1.0, 1_400: 1.3, 5_000: 3.0, 20_000: 8.0},
        (NUMPYRO, WARM): {300: 1.0, 1_400: 1.0, 5_000: 1.0, 20_000: 1.0},
        (PYTORCH, WARM): {300: 1.0, 1_400: 1.5, 5_000: 3.0, 20_000: 5.0},
    },
    "784-400-50": {
        (PYRO, WARM): {300: 1.0, 1_400: 1.8, 5_000: 1.8, 20_000: 1.8},
        (PYRO, EMPTY): {300: 1.0, 1_400: 1.8, 5_000: 1.8, 20_000: 1.8},
        (NUMPYRO, WARM): {300: 1.0, 1_400: 1.0, 5_000: 1.0, 20_000: 1.0},
        (PYTORCH, WARM): {300: 1.0, 1_400: 1.0, 5_000: 1.0, 20_000: 1.0},
    },
}
"""By what factor the fit should be faster, by number of steps."""

MAX_SLOWDOWN = 1.1
"""The largest accepted ratio of the times of a fit with an empty cache and an eager one."""


@dataclass
class FreshCall:
    """One training call in a fresh process.

    Args:
        name: the competitor.
        architecture: the problem.
        steps: the number of training steps.
        cache: the folder of compiled code; ``None`` for a new one at each call.
    """

    name: str
    architecture: str
    steps: int
    cache: str | None = None
    last_elbo: float = field(default=float("nan"), init=False)

    def seconds(self) -> float:
        """Make the call and return its time."""
        if self.cache is not None:
            return self._seconds(self.cache)
        # A compiler that the call did not wait for may still be writing.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
            return self._seconds(empty)

    def elbo(self) -> float:
        """Return the ELBO of the last epoch of the last call."""
        return self.last_elbo

    def _seconds(self, cache: str) -> float:
        program = ["-m", "benchmarks.competitors.training_call", self.name, self.architecture, str(self.steps)]
        seconds, self.last_elbo = printed_numbers(program, _caches_in(cache))
        return seconds


def main() -> None:
    """Measure and report."""
    settings = start("time_to_result", __doc__, threads=1, repetitions=3, rows=ROWS, pin=False)
    has_numpyro = importlib.util.find_spec("numpyro") is not None
    with tempfile.TemporaryDirectory() as warm:
        for architecture, rows in settings.rows.items():
            FreshCall(FIT, architecture, max(rows), warm).seconds()
        calls = {
            _label(architecture, steps, name): call
            for architecture, rows in settings.rows.items()
            for steps in rows
            for name, call in _calls(architecture, steps, warm, has_numpyro=has_numpyro).items()
        }
        times = interleave({label: call.seconds for label, call in calls.items()}, settings.repetitions)
    report(
        settings,
        times,
        _ratios(settings),
        unit="seconds",
        competitors={label: Competitor(call.seconds, call.elbo) for label, call in calls.items()},
        skipped={} if has_numpyro else {"NumPyro": "not installed; pip install 'amortvi[bench]'"},
        notes=[note for architecture in settings.rows for note in PROBLEMS[architecture]().notes],
    )


def _calls(architecture: str, steps: int, warm: str, *, has_numpyro: bool) -> dict[str, FreshCall]:
    """Return the calls of one row of the table."""
    others = [PYRO, PYTORCH, NUMPYRO, EAGER] if has_numpyro else [PYRO, PYTORCH, EAGER]
    return {name: FreshCall(name, architecture, steps) for name in others} | {
        EMPTY: FreshCall(FIT, architecture, steps),
        WARM: FreshCall(FIT, architecture, steps, warm),
    }


def _ratios(settings: Settings) -> list[Ratio]:
    ratios = []
    for architecture, rows in settings.rows.items():
        for steps in rows:
            for (name, fit), targets in TARGETS[architecture].items():
                of, to = (_label(architecture, steps, each) for each in (name, fit))
                ratios.append(Ratio(of, to, at_least=targets[steps]))
            empty, eager = (_label(architecture, steps, each) for each in (EMPTY, EAGER))
            ratios.append(Ratio(empty, eager, at_most=MAX_SLOWDOWN))
    return ratios


def _label(architecture: str, steps: int, name: str) -> str:
    return f"{architecture}, {steps} steps: {name}"


def _caches_in(folder: str) -> Mapping[str, str]:
    """Return the environment in which everything that is compiled is kept in ``folder``, and nothing of JAX is kept."""
    return {
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "XDG_CACHE_HOME": folder,
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }


if __name__ == "__main__":
    main()
