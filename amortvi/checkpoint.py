"""A saved run: one folder with the tensors and what is needed to make sense of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from amortvi._version import __version__
from amortvi.errors import CheckpointError
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
    """

    model: GenerativeModel
    guide: AmortizedGuide
    trainer: Trainer
    example: Batch
    objective: str


def save(content: Checkpoint, folder: Path, family: str) -> None:
    """Write ``content`` to ``folder``; a run that is there already is replaced only once all is written."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "model": content.model.state_dict(),
        "guide": content.guide.state_dict(),
        "optimizer": content.trainer.optimizer_state(),
        "example_args": list(content.example.args),
        "example_kwargs": dict(content.example.kwargs),
    }
    description = {
        "amortvi": __version__,
        "family": family,
        "objective": content.objective,
        "freeze_model": content.trainer.freeze_model,
        "history": [asdict(record) for record in content.trainer.records],
    }
    with _replacing(folder / _TENSORS) as path:
        torch.save(tensors, path)
    with _replacing(folder / _DESCRIPTION) as path:
        path.write_text(json.dumps(description, indent=1))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to that takes the place of ``path`` when the writing has succeeded."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    partial.replace(path)


@dataclass(frozen=True)
class SavedRun:
    """A run as read from its folder.

    Args:
        folder: where it was.
        description: the content of ``run.json``.
        tensors: the content of ``tensors.pt``.
    """

    folder: Path
    description: dict[str, Any]
    tensors: dict[str, Any]

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
                f"the run in {self.folder} was fitted with family {saved}, a callable: give it again as family=..."
            )
        return str(saved)

    def restore(self, model: GenerativeModel, guide: AmortizedGuide, trainer: Trainer) -> Batch:
        """Write everything into freshly made objects and return the example.

        Raises:
            CheckpointError: the parameters do not fit.
        """
        example = Batch(tuple(self.tensors["example_args"]), self.tensors["example_kwargs"])
        with model.own_parameters():
            guide.setup(*example.args, **example.kwargs)
        self._load("the model", model.load_state_dict, self.tensors["model"])
        self._load("encoder and family", guide.load_state_dict, self.tensors["guide"])
        trainer.records.extend(EpochRecord(**record) for record in self.description["history"])
        trainer.restore_optimizer(self.tensors["optimizer"])
        return example

    def _load(self, what: str, load: Callable[[Any], Any], state: Any) -> None:
        try:
            load(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"the parameters in {self.folder} do not fit {what}; build them as they were when the run was saved. {error}"
            ) from error


def read(folder: Path) -> SavedRun:
    """Read a saved run.

    Raises:
        CheckpointError: the folder holds none, or it cannot be read.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        # weights_only: a checkpoint is data, and loading it must not run code.
        tensors = torch.load(folder / _TENSORS, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no saved run: {error.filename} is missing.") from error
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"the saved run in {folder} cannot be read: {error}") from error
    return SavedRun(folder, description, tensors)
