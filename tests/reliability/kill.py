"""Kill fits and saves at random moments, and count what is lost: ``python -m tests.reliability.kill``.

Fits write a checkpoint after each epoch, are killed, and are started again until they are finished; each must then have the
parameters of a fit that was never killed, bit for bit. Saves follow each other on one path, in turn of two estimators; after
each signal, the file must hold one of the two, complete.

This process imports everything once, and forks a child for each run. It computes no gradient, because the engine of autograd
does not survive a fork.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import amortvi as avi
from amortvi.io import checkpoints, load_run, saved_run
from amortvi.io.trees import encode
from tests.io.resumption import Case, X, make_vi

Announce = Callable[[bytes], object]

FITS = {
    "eager": Case(options={"epochs": 60, "compile": False}),
    "recorded": Case(options={"epochs": 100}),
    "compiled": Case(options={"epochs": 60, "compile": True}),
}
BEGUN, DONE = b"b", b"d"
"""What a child sends before and after it writes a file."""
_LONGEST_WRITE = 0.004


class Child:
    """A forked process that calls a function, which can send bytes."""

    def __init__(self, work: Callable[[Announce], None]) -> None:
        sys.stdout.flush()
        self._reader, writer = os.pipe()
        self.received = b""
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                work(lambda message: os.write(writer, message))
                status = 0
            except KeyboardInterrupt:
                status = 130
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        os.close(writer)

    def listen(self, seconds: float = 600.0, until: Callable[[bytes], bool] = lambda received: False) -> None:
        """Receive bytes for some time, or until a condition holds or the process has ended."""
        end = time.monotonic() + seconds
        while not until(self.received):
            if not select.select([self._reader], [], [], max(0.0, end - time.monotonic()))[0]:
                return
            message = os.read(self._reader, 4096)
            if not message:
                return
            self.received += message

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if one is given, wait until the process has ended, and return its status, as a shell counts it."""
        if number is not None:
            os.kill(self._pid, number)
        self.listen()
        os.close(self._reader)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if status == 1:
            raise RuntimeError("a child has failed; its error is above")
        return 128 - status if status < 0 else status


def _announce_writes(announce: Announce) -> None:
    """Let this process say when it writes a file, and write a checkpoint after every epoch."""
    write_tree = checkpoints.write_tree

    def writing(path: Path, tree: dict[str, Any]) -> None:
        announce(BEGUN)
        write_tree(path, tree)
        announce(DONE)

    checkpoints.write_tree = saved_run.write_tree = writing  # type: ignore[attr-defined]
    checkpoints._LARGEST_SHARE = float("inf")


def _wait(child: Child, duration: float, most: int, moments: random.Random) -> None:
    """Wait for a random moment: of the duration, or, every second time, of one of the first writes."""
    if moments.random() < 0.5:
        child.listen(moments.uniform(0, duration))
        return
    count = moments.randint(1, most)
    child.listen(until=lambda received: received.count(BEGUN) >= count)
    time.sleep(moments.uniform(0, _LONGEST_WRITE))


def _content(path: Path) -> tuple[Any, dict[str, list[Any]]]:
    """Return what a saved run contains, except the durations of epochs."""
    tree, tensors = load_run(path).tree, {}
    values = encode({**tree, "history": tree["history"][:, :-1].nan_to_num()}, tensors, "run")
    return values, {name: [tensor.dtype, tensor.shape, tensor.numpy().tobytes()] for name, tensor in tensors.items()}


def _epochs(folder: Path) -> int:
    """Return the epochs of the newest checkpoint, or -1 if there is none; one that is damaged raises an error."""
    if not any(folder.glob("epoch-*")):
        return -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return len(load_run(folder).records)


def kill_fits(name: str, kills: int, folder: Path, moments: random.Random) -> int:
    """Kill fits until they have been killed a number of times, and return how often something was lost."""
    case = FITS[name]

    def whole(announce: Announce) -> None:
        case.fit().save(folder / "whole")

    def checkpointed(announce: Announce) -> None:
        _announce_writes(announce)
        case.fit(checkpoint=place).save(place / "result")

    begun = time.monotonic()
    Child(whole).end()
    expected = _content(folder / "whole")
    place, start = folder / "timed", time.monotonic()
    Child(checkpointed).end()
    duration = time.monotonic() - start
    done = inside = fits = lost = 0
    while done < kills:
        fits += 1
        place, before = folder / f"fit-{fits}", -1
        while True:
            child = Child(checkpointed)
            if done < kills:
                _wait(child, duration, 20, moments)
            status = child.end(signal.SIGKILL if done < kills else None)
            if status == 0:
                break
            done += 1
            inside += child.received.endswith(BEGUN)
            after = _epochs(place)
            # The last write is that of the finished fit.
            lost += after < min(before + child.received.count(DONE), case.options["epochs"])
            before = after
        lost += _content(place / "result") != expected
        shutil.rmtree(place)
    print(
        f"fits, {name}: {done} kills, {inside} of them inside a checkpoint, of {fits} fits; "
        f"lost: {lost} ({time.monotonic() - begun:.0f} s)",
        flush=True,
    )
    return lost


def signal_saves(number: signal.Signals, count: int, folder: Path, moments: random.Random) -> int:
    """Send a signal into saves a number of times, and return how often no complete run was left."""
    path, found, inside, lost, begun = folder / "run", [0, 0], 0, 0, time.monotonic()
    # The second file is larger, so that one would be seen that is written over the other.
    runs = [make_vi(width=width).setup(X, seed=width) for width in (8, 4000)]

    def saving(announce: Announce) -> None:
        _announce_writes(announce)
        while True:
            for run in runs:
                run.save(path)

    expected = []
    for run in runs:
        run.save(path)
        expected.append(_content(path))
    for _ in range(count):
        child = Child(saving)
        _wait(child, 0.1, 4, moments)
        child.end(number)
        inside += child.received.endswith(BEGUN)
        partial = list(folder.glob(".run.*.partial"))
        for each in partial:
            each.unlink()
        try:
            found[expected.index(_content(path))] += 1
        except (avi.errors.AmortviError, ValueError) as error:
            lost += 1
            print(f"LOST: {error}")
            runs[0].save(path)
        if number == signal.SIGINT and partial:
            lost += 1
            print("LEFT BEHIND: Ctrl-C has left a partial file")
    print(
        f"saves, {number.name}: {count} signals, {inside} of them inside a save; found {found[0]} and {found[1]} times the two "
        f"runs; lost: {lost} ({time.monotonic() - begun:.0f} s)",
        flush=True,
    )
    return lost


def main() -> None:
    """Print the counts, and exit with status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills of eager fits, and as many of recorded ones")
    parser.add_argument("--compiled", type=int, default=10, help="kills of compiled fits, which take some seconds each")
    parser.add_argument("--saves", type=int, default=300, help="kills inside of saves")
    parser.add_argument("--interrupts", type=int, default=200, help="interrupts (Ctrl-C) inside of saves")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="a folder on a disk")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder / f"kill-{os.getpid()}"
    folder.mkdir(parents=True)
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True).stdout
    print(f"file system: {kind.strip()}")
    if kind.strip() in ("tmpfs", "ramfs"):
        print(f"WARNING: {options.folder} is in memory; pass --folder=... on a disk")
    moments, lost = random.Random(options.seed), 0
    try:
        for name, kills in (("eager", options.kills), ("recorded", options.kills), ("compiled", options.compiled)):
            if kills:
                (folder / name).mkdir()
                lost += kill_fits(name, kills, folder / name, moments)
        for number, count in ((signal.SIGKILL, options.saves), (signal.SIGINT, options.interrupts)):
            lost += signal_saves(number, count, folder, moments)
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
