"""A saved run: one folder with the tensors and what is needed to make sense of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amortvi._modes import random_state
from amortvi._version import __version__
from amortvi.errors import AmortviError, CheckpointError
from amortvi.families import NAMED, FamilyChoice
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.observations import Batch
from amortvi.training import EpochRecord, Trainer

__all__ = ["Checkpoint", "SavedRun", "read", "save"]

_TENSORS, _DESCRIPTION = "tensors.pt", "run.json"


@dataclass(frozen=True)
class Checkpoint:
    """What one run consists of.

    Args:
        model: the generative model.
        guide: the guide, set up.
        trainer: its training.
        example: a few observations, from which a loaded guide reads the model's structure.
        objective: the objective, as the export names it.
        dtype: the name of the floating type of the parameters, such as ``"float32"``.
    """

    model: GenerativeModel
    guide: AmortizedGuide
    trainer: Trainer
    example: Batch
    objective: str
    dtype: str


def save(content: Checkpoint, folder: Path, family: str) -> None:
    """Write ``content`` to ``folder``; a run that is there already is replaced only once all is written."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "model": content.model.state_dict(),
        "guide": content.guide.state_dict(),
        "optimizer": _plain(content.trainer.optimizer_state()),
        "example_args": list(content.example.args),
        "example_kwargs": dict(content.example.kwargs),
    }
    description = {
        "amortvi": __version__,
        "family": family,
        "dtype": content.dtype,
        "latents": _latents(content.guide),
        "objective": content.objective,
        "freeze_model": content.trainer.freeze_model,
        "history": [asdict(record) for record in content.trainer.records],
    }
    with _replacing(folder / _TENSORS, folder / _DESCRIPTION) as (tensors_path, description_path):
        torch.save(tensors, tensors_path)
        description["sha256"] = _digest(tensors_path)
        description_path.write_text(json.dumps(description, indent=1))


def _digest(path: Path) -> str:
    """What the description knows its tensors by: those of another save, or damaged ones, would load without a word."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _latents(guide: AmortizedGuide) -> dict[str, list[int]]:
    """The latent sites of a model and their shapes, to know the model by."""
    return {site.name: list(site.shape) for site in guide.latents.sites}


def _plain(value: Any) -> Any:
    """Numbers of NumPy, which a schedule may put into an optimizer, as plain ones: only those are loaded as data."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def _replacing(*paths: Path) -> Iterator[list[Path]]:
    """Give paths to write to that take the place of ``paths`` when all the writing has succeeded."""
    partial = [path.with_name(path.name + ".partial") for path in paths]
    try:
        yield partial
        for written, path in zip(partial, paths, strict=True):
            written.replace(path)
    finally:
        for written in partial:
            written.unlink(missing_ok=True)


@dataclass(frozen=True)
class SavedRun:
    """A run as read from its folder.

    Args:
        folder: where it was.
        description: the content of ``run.json``.
        tensors: the content of ``tensors.pt``.
        records: the history.
    """

    folder: Path
    description: dict[str, Any]
    tensors: dict[str, Any]
    records: list[EpochRecord]

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the parameters."""
        return _DTYPES[self.description["dtype"]]

    @property
    def freeze_model(self) -> bool:
        """Whether only the posterior was trained."""
        return bool(self.description["freeze_model"])

    @property
    def objective(self) -> str:
        """The objective, as the export names it."""
        return str(self.description["objective"])

    def family(self, given: FamilyChoice | None) -> FamilyChoice:
        """Return the family to build: the one that is given, else the one that was saved by name.

        Raises:
            CheckpointError: the family was a callable and none is given.
        """
        saved = self.description["family"]
        if given is not None:
            return given
        if saved not in NAMED:
            raise CheckpointError(
                f"the run in {self.folder} was fitted with family {saved}: give it again as family=..."
            )
        return str(saved)

    def restore(self, model: GenerativeModel, guide: AmortizedGuide, trainer: Trainer) -> Batch:
        """Write everything into freshly made objects and return the example.

        Raises:
            CheckpointError: the run belongs to another model, encoder or family; no parameter was written then.
        """
        example = Batch(tuple(self.tensors["example_args"]), self.tensors["example_kwargs"])
        device = next((tensor.device for module in (guide, model) for tensor in _tensors(module)), torch.device("cpu"))
        on_device = example.to(device)
        try:
            # What is drawn here is overwritten below: the caller's random state has no part in it.
            with random_state(0, device), model.own_parameters():
                guide.setup(*on_device.args, **on_device.kwargs)
        except AmortviError as error:
            raise CheckpointError(
                f"the run in {self.folder} does not belong to this model, encoder or family, which fail on its data; "
                f"{_AS_SAVED} {error}"
            ) from error
        saved = self.description["latents"]
        if saved != _latents(guide):
            raise CheckpointError(
                f"the run in {self.folder} belongs to a model with the latents {saved} (name: shape); this one has "
                f"{_latents(guide)}; {_AS_SAVED}"
            )
        self._check("the model", model, self.tensors["model"])
        self._check("encoder and family", guide, self.tensors["guide"])
        model.load_state_dict(self.tensors["model"])
        guide.load_state_dict(self.tensors["guide"])
        trainer.records.extend(self.records)
        trainer.restore_optimizer(self.tensors["optimizer"])
        return example

    def _check(self, what: str, module: nn.Module, saved: dict[str, Any]) -> None:
        """Compare before anything is written: a failing ``load_state_dict`` has written half of it."""
        here = {name: _shape(value) for name, value in module.state_dict().items()}
        there = {name: _shape(value) for name, value in saved.items()}
        wrong = [f"{name} is missing in it" for name in here.keys() - there.keys()]
        wrong += [f"{name} is only in it" for name in there.keys() - here.keys()]
        wrong += [
            f"{name} has shape {shape} in it, {here[name]} here"
            for name, shape in there.items()
            if here.get(name, shape) != shape
        ]
        if wrong:
            shown = "; ".join(sorted(wrong)[:5]) + ("; and more" if len(wrong) > 5 else "")
            raise CheckpointError(f"the run in {self.folder} does not fit {what}: {shown}; {_AS_SAVED}")


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an entry of a state dict; a module may keep something other than tensors in it."""
    return tuple(value.shape) if isinstance(value, Tensor) else None


_AS_SAVED = "build model, encoder and family as they were when it was saved."
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _FLOATING}
_DESCRIBED = {"family", "dtype", "latents", "objective", "freeze_model", "history", "sha256"}
_STORED = {"model", "guide", "optimizer", "example_args", "example_kwargs"}


def read(folder: Path) -> SavedRun:
    """Read a saved run.

    Raises:
        CheckpointError: the folder holds none, or it cannot be read.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        # weights_only: a checkpoint is data, and loading it must not run code.
        tensors = torch.load(folder / _TENSORS, map_location="cpu", weights_only=True)
        missing = (_DESCRIBED - set(description)) | (_STORED - set(tensors))
        if missing or description["dtype"] not in _DTYPES or description["sha256"] != _digest(folder / _TENSORS):
            raise ValueError("something is not as save writes it")
        records = [EpochRecord(**record) for record in description["history"]]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no saved run: {error.filename} is missing.") from error
    except NotADirectoryError as error:
        raise CheckpointError(f"{folder} is a file; give the folder that save was called with.") from error
    except Exception as error:
        # Damage can make the readers raise anything. What they say is of little help, or names a way to read the file that
        # runs what is in it.
        raise CheckpointError(
            f"the saved run in {folder} is damaged, or of another version of amortvi than {__version__} "
            f"({type(error).__name__}): save it again."
        ) from error
    return SavedRun(folder, description, tensors, records)
