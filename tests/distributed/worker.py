"""What each process of `test_distributed` runs: all fits and checks, whose results it writes to a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import amortvi as avi
from tests.distributed.fits import FITS, Rows, X, make_vi, parameters, run

RANK = int(os.environ.get("RANK", "0"))


def described(vi: avi.AmortizedVI) -> dict[str, Any]:
    return {
        "parameters": parameters(vi),
        "history": vi.history.drop(columns="seconds").to_dict("list"),
        "status": vi.status,
    }


def error_of(call: Callable[[], object]) -> tuple[str, str, dict[str, Any]]:
    try:
        call()
    except avi.errors.AmortviError as error:
        return type(error).__name__, str(error), dict(vars(error))
    return "", "", {}


class StopAt(avi.callbacks.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
        if fit.epoch == self.epoch:
            fit.stop()


class Interrupt(avi.callbacks.Callback):
    """Sends SIGINT to the other process after the first step of the third epoch."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def on_step_end(self, fit: avi.callbacks.RunningFit) -> None:
        if (fit.epoch, fit.step) == (3, 1):
            os.kill(self.pid, signal.SIGINT)
            time.sleep(0.1)


class Broken(Rows):
    def __getitem__(self, row: int) -> Tensor:
        if RANK == 1 and len(self.read) > 200:
            raise KeyError("gone")
        return super().__getitem__(row)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(X)


def rows_read(epochs: int) -> int:
    """Return how often this process has read a row in a fit of some epochs."""
    rows = Rows(X)
    run(make_vi(), rows, True, epochs=epochs, batch_size=60)
    return len(rows.read)


def nan_for_large(vi: avi.AmortizedVI) -> avi.AmortizedVI:
    """Make the loss of the observations whose first number is above 2 NaN."""
    encoder = vi.encoder

    def poison(module: torch.nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.where(arguments[0][:, :1] > 2.0, torch.nan, output) if module.training else output

    encoder.register_forward_hook(poison)
    return vi


def main(folder: Path) -> None:
    found: dict[str, Any] = {name: described(function(True)) for name, function in FITS.items()}
    found["other initial parameters"] = described(run(make_vi(seed=RANK), X, True, seed=5))
    found["no seed"] = described(run(make_vi(seed=7 + RANK), X, True, seed=None))
    found["rows read"] = [rows_read(epochs) for epochs in (1, 3)]
    found["dropout"] = described(run(make_vi(encoder=avi.encoders.MLP(3, [8], dropout=0.5)), X, True, batch_size=60))
    found["seconds"] = make_vi().fit(X, epochs=2, seed=0, progress=False, distributed=True).history["seconds"].tolist()
    # Checkpoints, and what callbacks decide in the first process.
    options = {"epochs": 6, "checkpoint": folder / "checkpoints", "validation_data": X[:40], "patience": 6}
    found["stopped"] = described(run(make_vi(), X, True, callbacks=[StopAt(3)], **options))
    found["resumed"] = described(run(make_vi(seed=RANK), X, True, **options))
    found["finished"] = described(run(make_vi(seed=RANK), X, True, **options))
    pids: list[Any] = [None, None]
    torch.distributed.all_gather_object(pids, os.getpid())
    found["interrupted"] = described(
        run(make_vi(), X, True, epochs=8, callbacks=[Interrupt(pids[1])], checkpoint=folder / "interrupted")
    )
    found["after the interruption"] = described(run(make_vi(), X, True, epochs=8, checkpoint=folder / "interrupted"))
    # Errors, after each of which the processes train on.
    found["diverged"] = error_of(lambda: run(nan_for_large(make_vi()), X, True, standardize=False))
    found["broken data"] = error_of(lambda: run(make_vi(), Broken(X), True))
    found["broken callback"] = error_of(lambda: run(make_vi(), X, True, callbacks=[BrokenCallback()]))
    found["loader"] = error_of(lambda: run(make_vi(), DataLoader(TensorDataset(X)), True))
    found["stream"] = error_of(lambda: run(make_vi(), Endless(), True))
    found["other data"] = error_of(lambda: run(make_vi(), X[RANK * 10 :], True))
    found["other options"] = error_of(lambda: run(make_vi(), X, True, batch_size=50 + RANK))
    found["line search"] = error_of(lambda: run(make_vi(), X, True, optimizer=torch.optim.LBFGS))
    found["compiled"] = error_of(lambda: run(make_vi(), X, True, compile=True))
    found["bad checkpoint"] = error_of(lambda: run(make_vi(), X, True, epochs=7, checkpoint=folder / "checkpoints"))
    found["at the end"] = described(run(make_vi(), X, True))
    torch.save(found, folder / f"{RANK}.pt")


class BrokenCallback(avi.callbacks.Callback):
    def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
        raise avi.errors.DataError("the callback is broken")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
