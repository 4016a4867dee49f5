"""The command line of every benchmark, and the cores that all competitors share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
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
        rows: for each problem of the question, the numbers of training steps to measure; empty if it has none.
    """

    name: str
    question: str
    cores: str
    threads: int
    repetitions: int
    epochs: int
    observations: int
    rows: Mapping[str, Sequence[int]]


def start(
    name: str,
    doc: str | None,
    *,
    threads: int = 1,
    repetitions: int = 9,
    epochs: int = 0,
    observations: int = 0,
    rows: Mapping[str, Sequence[int]] | None = None,
    pin: bool = True,
) -> Settings:
    """Parse the command line, and restrict this process and its children to their threads and cores.

    Call this before any computation, and before JAX is imported: JAX reads the number of cores at its import.

    Args:
        name: the name of the script.
        doc: the docstring of the script.
        threads: the default of ``--threads``.
        repetitions: the default of ``--repetitions``.
        epochs: the default of ``--epochs``, or 0 for a script without this option.
        observations: the default of ``--observations``, or 0 for a script without this option.
        rows: for each problem, the default of ``--rows``; ``None`` for a script without ``--problems`` and ``--rows``.
        pin: whether everything stays on as many cores as there are threads. Otherwise each library still computes on
            that many threads, but may compile on the other cores.
    """
    text = doc or name
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {"threads": threads, "repetitions": repetitions, "epochs": epochs, "observations": observations}
    for option, default in defaults.items():
        if default:
            parser.add_argument(f"--{option}", type=_positive, default=default, metavar="N", help=f"default: {default}")
    if rows:
        _add_selection(parser, "problems", list(rows))
        _add_selection(parser, "rows", [str(row) for row in sorted(set().union(*rows.values()))])
    chosen = vars(parser.parse_args())
    counts = {option: chosen.get(option, default) for option, default in defaults.items()}
    return Settings(
        name,
        text.splitlines()[0],
        _restrict_cores(counts["threads"], pin=pin),
        rows=_select_rows(rows or {}, chosen.get("problems"), chosen.get("rows")),
        **counts,
    )


def _add_selection(parser: argparse.ArgumentParser, option: str, choices: Sequence[str]) -> None:
    """Add an option that takes some of ``choices``, separated by commas."""

    def parse(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(choices):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(choices)}")
        return text.split(",")

    parser.add_argument(f"--{option}", type=parse, metavar="A,B", help=f"some of: {','.join(choices)}")


def _select_rows(
    rows: Mapping[str, Sequence[int]], problems: Sequence[str] | None, chosen: Sequence[str] | None
) -> dict[str, Sequence[int]]:
    """Return the chosen rows of the chosen problems, by default all problems and their own rows."""
    return {
        name: default if chosen is None else [int(row) for row in chosen]
        for name, default in rows.items()
        if problems is None or name in problems
    }


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def _restrict_cores(threads: int, *, pin: bool) -> str:
    """Give every library the same cores and the same number of threads, and describe them."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for child processes
    # Within one step, XLA computes on as many threads as torch.
    parallel = "true" if threads > 1 else "false"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={parallel} intra_op_parallelism_threads={threads}"
    torch.set_num_threads(threads)
    if not pin:
        return f"compilers may use all {os.cpu_count()} cores"
    if not hasattr(os, "sched_setaffinity"):
        return "cores cannot be assigned on this system: torch uses the requested threads, JAX chooses its own"
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    if len(cores) < threads:
        return f"{threads} threads on {len(cores)} cores: the times are unreliable"
    return f"{threads} of {len(cores)} cores for all competitors"
