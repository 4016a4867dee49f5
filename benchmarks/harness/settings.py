"""The command line of every benchmark, and the cores that all competitors share."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

import torch

__all__ = ["Settings", "start"]


@dataclass(frozen=True)
class Settings:
    """How a question is measured.

    Args:
        name: the name of the script, and of the file with its results.
        question: the first line of the script's docstring.
        cores: the threads and cores of all competitors, in words.
        threads: the number of threads of each competitor.
        repetitions: how often each competitor is measured.
        epochs: passes over the data per measurement; 0 if the question has none.
        observations: the number of observations; 0 if it cannot be chosen.
    """

    name: str
    question: str
    cores: str
    threads: int
    repetitions: int
    epochs: int
    observations: int


def start(
    name: str, doc: str | None, *, threads: int = 1, repetitions: int = 9, epochs: int = 0, observations: int = 0
) -> Settings:
    """Parse the command line, and restrict this process and its children to their cores.

    Call this before any computation, and before JAX is imported: JAX reads the number of cores at its import.

    Args:
        name: the name of the script.
        doc: the docstring of the script.
        threads: the default of ``--threads``.
        repetitions: the default of ``--repetitions``.
        epochs: the default of ``--epochs``, or 0 for a script without this option.
        observations: the default of ``--observations``, or 0 for a script without this option.
    """
    text = doc or name
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {"threads": threads, "repetitions": repetitions, "epochs": epochs, "observations": observations}
    for option, default in defaults.items():
        if default:
            parser.add_argument(f"--{option}", type=_positive, default=default, metavar="N", help=f"default: {default}")
    counts = defaults | vars(parser.parse_args())
    return Settings(name, text.splitlines()[0], _restrict_cores(counts["threads"]), **counts)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def _restrict_cores(threads: int) -> str:
    """Give every library the same cores and the same number of threads, and describe them."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for child processes
    # Within one step, XLA computes on as many threads as torch.
    parallel = "true" if threads > 1 else "false"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={parallel} intra_op_parallelism_threads={threads}"
    torch.set_num_threads(threads)
    if not hasattr(os, "sched_setaffinity"):
        return "cores cannot be assigned on this system: torch uses the requested threads, JAX chooses its own"
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    if len(cores) < threads:
        return f"{threads} threads on {len(cores)} cores: the times are unreliable"
    return f"{threads} of {len(cores)} cores for all competitors"
