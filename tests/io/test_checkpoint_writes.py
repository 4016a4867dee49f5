"""When checkpoints are written, what happens if that fails, and what signals and other processes do."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import amortvi as avi
from amortvi.errors import AmortviWarning, CheckpointError
from amortvi.io import checkpoints as module
from tests.io.resumption import Interrupt, assert_equal, checkpoints, eager, make_vi

EPOCH = 10.0
"""The duration of an epoch by the `Clock`, in seconds."""


class Clock(avi.callbacks.Callback):
    """A clock by which epochs take ten seconds, and checkpoints a second or as long as is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, write: float = 1.0) -> None:
        self.now, write_tree = 0.0, module.write_tree

        def writing(path: Path, tree: dict[str, Any]) -> None:
            self.now += write
            write_tree(path, tree)

        monkeypatch.setattr(module, "write_tree", writing)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
        self.now += EPOCH


def epochs_written(folder: Path) -> list[int]:
    return [int(name[6:12]) for name in checkpoints(folder) if "finished" not in name]


@pytest.mark.parametrize(
    ("write", "every", "expected"),
    [
        (0.1, 1, list(range(13))),
        (0.1, 4, [0, 4, 8, 12]),
        (0.1, timedelta(seconds=25), [0, 3, 6, 9, 12]),
        # Two seconds are a fiftieth of the time of ten epochs, one of that of five, and forty of that of two hundred.
        (2.0, 1, [0, 10]),
        (1.0, 1, [0, 5, 10]),
        (40.0, 1, [0]),
    ],
)
def test_when_checkpoints_are_written(
    write: float, every: Any, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager(callbacks=[Clock(monkeypatch, write)]).fit(checkpoint=tmp_path, every=every, keep=100)
    assert epochs_written(tmp_path) == expected


@pytest.mark.parametrize("fails", ["write", "fsync", "open"])
def test_a_full_disk_ends_no_fit(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full from epoch 4 to epoch 8."""
    monkeypatch.setattr(module, "_LARGEST_SHARE", float("inf"))
    whole, state, during = eager().fit(), {"full": False}, {}

    class Disk(avi.callbacks.Callback):
        def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
            if fit.epoch == 9:
                during.update({name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)})
            state["full"] = 4 <= fit.epoch <= 8

    def full(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if state["full"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **options)

        return call

    if fails == "write":
        # A real one refuses the bytes that do not fit.
        monkeypatch.setattr("builtins.open", _opening(state))
    else:
        monkeypatch.setattr(os, fails, full(getattr(os, fails)))
    message = r"no checkpoint of epoch [4-8] .*No space left on device.*earlier checkpoints are as they were"
    with pytest.warns(AmortviWarning, match=message) as warned:
        vi = eager(callbacks=[Disk()]).fit(checkpoint=tmp_path)
    assert len(warned) == 5  # one for each epoch
    assert_equal(vi, whole)
    kept = {name: content for name, content in during.items() if name != ".lock"}
    assert sorted(kept) == [f"epoch-{epoch:06d}.safetensors" for epoch in (1, 2, 3)]
    for name, content in kept.items():
        (tmp_path / "kept").mkdir(exist_ok=True)
        (tmp_path / "kept" / name).write_bytes(content)
    assert_equal(eager().fit(checkpoint=tmp_path / "kept"), whole)


def _opening(state: dict[str, bool]) -> Any:
    """Return ``open`` with ``/dev/full`` in place of new files while the disk is full."""
    real = open

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if state["full"] and mode == "wb":
            os.close(file)
            file = "/dev/full"
        return real(file, mode, *arguments, **options)

    return opened


def _space(folder: Path, megabytes: int) -> bool:
    """Mount a small file system, if that is permitted."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "amortvi", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 1024)


def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_SHARE", float("inf"))
    disk = tmp_path / "disk"
    disk.mkdir()
    if not _space(disk, 1):
        pytest.skip("mounting a file system is not permitted")
    try:

        class Fill(avi.callbacks.Callback):
            def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
                if fit.epoch == 4:
                    _fill(disk / "other")
                if fit.epoch == 9:
                    assert epochs_written(disk) == [1, 2, 3]
                    (disk / "other").unlink()

        with pytest.warns(AmortviWarning, match=r"no checkpoint of epoch [4-8] .*No space left on device"):
            vi = eager(callbacks=[Fill()]).fit(checkpoint=disk)
        assert epochs_written(disk)[-1] == 12
        assert_equal(vi, eager().fit())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


CHILD = """
import sys, time
import amortvi as avi
from amortvi.io import checkpoints
from tests.io.resumption import eager
checkpoints._LARGEST_SHARE = float("inf") if sys.argv[2] == "often" else -1.0

class Slow(avi.callbacks.Callback):
    def on_epoch_end(self, fit):
        print(fit.epoch, flush=True)
    def on_step_end(self, fit):
        time.sleep(0.02)

vi = eager(callbacks=[Slow()]).fit(checkpoint=sys.argv[1])
print(vi.status, flush=True)
"""


def start(folder: Path, until: int = 3, often: str = "often") -> "subprocess.Popen[str]":
    """Start another process that fits, and return once it has trained some epochs."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), often], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    while (line := child.stdout.readline()) != f"{until}\n":
        assert line, "the process has failed"
    return child


@pytest.mark.skipif(os.name != "posix", reason="other signals")
@pytest.mark.parametrize("often", ["often", pytest.param("never", marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_write_a_last_checkpoint(number: signal.Signals, often: str, tmp_path: Path) -> None:
    child = start(tmp_path, often=often)
    time.sleep(0.03)  # now it is inside epoch 4
    child.send_signal(number)
    printed = child.communicate(timeout=60)[0].split()
    assert child.returncode == (143 if number == signal.SIGTERM else 0)
    assert printed[-1:] == (["interrupted"] if number == signal.SIGINT else [])
    last = epochs_written(tmp_path)[-1]
    assert 3 <= last < 12  # a slow machine may have come further
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LARGEST_SHARE", float("inf"))
        assert_equal(eager().fit(checkpoint=tmp_path), eager().fit())


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    child = start(tmp_path, until=1)
    try:
        with pytest.raises(CheckpointError, match="used by another fit"):
            eager().fit(checkpoint=tmp_path)
    finally:
        child.kill()
        child.wait()
    assert child.stdout is not None
    child.stdout.close()
    assert eager().fit(checkpoint=tmp_path).status != "interrupted"  # a process that was killed holds no lock


def test_a_folder_in_use_by_another_thread_is_refused(tmp_path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    class Wait(avi.callbacks.Callback):
        def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
            inside.set()
            assert leave.wait(60)

    first = make_vi()
    thread = threading.Thread(target=eager(callbacks=[Wait()]).fit, args=(first,), kwargs={"checkpoint": tmp_path})
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(CheckpointError, match="used by another fit"):
            eager().fit(checkpoint=tmp_path)
    finally:
        leave.set()
        thread.join()
    assert_equal(first, eager().fit())


def test_ctrl_c_outside_the_main_thread_is_not_held(tmp_path: Path) -> None:
    """A callback of a fit in a thread can still raise it."""
    vi = make_vi()
    case = eager(callbacks=[Interrupt(3, 1)])
    thread = threading.Thread(target=case.fit, args=(vi,), kwargs={"checkpoint": tmp_path})
    thread.start()
    thread.join()
    assert vi.status == "interrupted"
    assert_equal(eager().fit(checkpoint=tmp_path), eager().fit())
