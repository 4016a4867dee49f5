"""What can be set on the command line of every question, and the cores that all competitors share."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

__all__ = ["Settings", "start"]


@dataclass(frozen=True)
class Settings:
    """How a question is measured.

    Args:
        name: of the script, and of the file that its result goes to.
        question: the first line of what the script says of itself.
        threads: threads, and cores, that every competitor has.
        repetitions: how often each competitor is measured.
        epochs: passes over the data in one measurement; 0 where there are none.
        note: what else there is to say of how it was measured.
        observations: how many of them are measured; 0 where that is not to be chosen.
    """

    name: str
    question: str
    threads: int
    repetitions: int
    epochs: int
    note: str
    observations: int = 0


def start(
    name: str, doc: str | None, *, threads: int = 1, repetitions: int = 9, epochs: int = 0, observations: int = 0
) -> Settings:
    """Read the command line and keep this process, and those it starts, to its cores.

    Call it before anything is computed, and before JAX is imported, which looks at the cores that it has when it starts.

    Args:
        name: of the script.
        doc: the docstring of the script.
        threads: the default of ``--threads``.
        repetitions: the default of ``--repetitions``.
        epochs: the default of ``--epochs``, or 0 for a question that has none.
        observations: the default of ``--observations``, or 0 for a question that has none.
    """
    text = doc or name
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = {"--threads": threads, "--repetitions": repetitions}
    counts |= {name: default for name, default in (("--epochs", epochs), ("--observations", observations)) if default}
    for option, default in counts.items():
        parser.add_argument(option, type=_positive, default=default, metavar="N", help=f"by default {default}")
    given = parser.parse_args()
    note = _keep_to_cores(given.threads)
    epochs, observations = (getattr(given, option, 0) for option in ("epochs", "observations"))
    return Settings(name, text.splitlines()[0], given.threads, given.repetitions, epochs, note, observations)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {value}")
    return value


def _keep_to_cores(threads: int) -> str:
    """Give every library the same cores and as many threads; say what was done."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that a question starts
    # Inside one step XLA is to compute on as many threads as torch does.
    parallel = "true" if threads > 1 else "false"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={parallel} intra_op_parallelism_threads={threads}"

    import torch  # here, since the time that this takes is itself a question

    torch.set_num_threads(threads)
    if not hasattr(os, "sched_setaffinity"):
        return "this system cannot keep a process to some cores: torch has the threads asked for, JAX what it takes"
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    if len(cores) < threads:
        return f"{threads} threads on {len(cores)} cores: numbers are not to be trusted"
    return f"{threads} of {len(cores)} cores for all competitors"
