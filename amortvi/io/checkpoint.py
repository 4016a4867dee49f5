"""Saved runs: a folder with the tensors, and a description that is needed to interpret them."""

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

from amortvi._util import __version__
from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import AmortviError, CheckpointError
from amortvi.families import NAMED, FamilyChoice, family_label
from amortvi.model import Model
from amortvi.posterior import AmortizedGuide
from amortvi.posterior.global_latents import guide_label
from amortvi.training import Convergence, EpochRecord, Trainer

__all__ = ["RunState", "SavedRun", "load_run", "save_run"]

_TENSORS, _DESCRIPTION = "tensors.pt", "run.json"
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _FLOATING}
_DESCRIPTION_KEYS = {
    "family",
    "dtype",
    "latents",
    "globals",
    "global_guide",
    "objective",
    "freeze_model",
    "history",
    "convergence",
    "sha256",
}
_TENSOR_KEYS = {"model", "guide", "optimizer", "example_args", "example_kwargs"}
_KINDS = {"latents": "latents", "globals": "global latents"}
_STANDARDIZATION = "network.standardization."
_AS_SAVED = "build model, encoder and family as they were when the run was saved."


@dataclass(frozen=True)
class RunState:
    """The state of one run.

    Args:
        model: the generative model.
        guide: the guide, set up.
        trainer: the trainer.
        example: a few observations, from which a loaded guide reads the structure of the model.
        objective: the objective of the last fit.
    """

    model: Model
    guide: AmortizedGuide
    trainer: Trainer
    example: Batch
    objective: str


def save_run(run: RunState, family: FamilyChoice, path: str | Path) -> None:
    """Write a run to a folder; an existing run is replaced only after everything has been written."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "model": run.model.state_dict(),
        "guide": run.guide.state_dict(),
        "optimizer": _plain(run.trainer.optimizer_state()),
        "example_args": list(run.example.args),
        "example_kwargs": dict(run.example.kwargs),
    }
    label = family_label(family)
    parameters = next(tensor for tensor in _tensors(run.guide) if tensor.is_floating_point())
    description = {
        "amortvi": __version__,
        # A callable that happens to be called "full" is not the family of that name.
        "family": label if isinstance(family, str) else f"{label}, not chosen by name",
        "dtype": str(parameters.dtype).removeprefix("torch."),
        "latents": _latents(run.guide),
        "globals": _globals(run.guide),
        "global_guide": guide_label(run.guide.network.global_posterior),
        "objective": run.objective,
        "freeze_model": run.trainer.freeze_model,
        "history": [asdict(record) for record in run.trainer.records],
        "convergence": None if run.trainer.convergence is None else asdict(run.trainer.convergence),
    }
    with _replacing(folder / _TENSORS, folder / _DESCRIPTION) as (tensors_path, description_path):
        torch.save(tensors, tensors_path)
        description["sha256"] = _digest(tensors_path)
        description_path.write_text(json.dumps(description, indent=1))


def load_run(path: str | Path) -> SavedRun:
    """Read a saved run, or raise `CheckpointError` if there is none or it cannot be read."""
    folder = Path(path)
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        # weights_only, because a checkpoint is data and loading it must not run code.
        tensors = torch.load(folder / _TENSORS, map_location="cpu", weights_only=True)
        missing = (_DESCRIPTION_KEYS - set(description)) | (_TENSOR_KEYS - set(tensors))
        if missing or description["dtype"] not in _DTYPES or description["sha256"] != _digest(folder / _TENSORS):
            raise ValueError("the content is not what save writes")
        records = [EpochRecord(**record) for record in description["history"]]
        convergence = None if description["convergence"] is None else Convergence(**description["convergence"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no saved run: {error.filename} is missing.") from error
    except NotADirectoryError as error:
        raise CheckpointError(f"{folder} is a file; pass the folder that save was called with.") from error
    except Exception as error:
        # A damaged file can make the readers raise any error. Their messages do not help the user, or suggest loading
        # the file with weights_only=False, which would run its code.
        raise CheckpointError(
            f"the saved run in {folder} is damaged, or was saved by another version of amortvi than {__version__} "
            f"({type(error).__name__}): save it again."
        ) from error
    return SavedRun(folder, description, tensors, records, convergence)


@dataclass(frozen=True)
class SavedRun:
    """The content of a folder: ``run.json``, ``tensors.pt``, and from the former the history and how the last fit ended."""

    folder: Path
    description: dict[str, Any]
    tensors: dict[str, Any]
    records: list[EpochRecord]
    convergence: Convergence | None

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return _DTYPES[self.description["dtype"]]

    @property
    def freeze_model(self) -> bool:
        """Whether only the posterior was trained."""
        return bool(self.description["freeze_model"])

    @property
    def objective(self) -> str:
        """The objective of the last fit."""
        return str(self.description["objective"])

    def family(self, given: FamilyChoice | None) -> FamilyChoice:
        """Return the given family, or else the one saved by name; raise `CheckpointError` if there is neither."""
        saved = str(self.description["family"])
        if given is None and saved not in NAMED:
            raise CheckpointError(
                f"the run in {self.folder} was fitted with the family {saved}: pass it again as family=..."
            )
        return saved if given is None else given

    def restore(self, model: Model, guide: AmortizedGuide, trainer: Trainer) -> Batch:
        """Load the run into newly constructed objects, and return the example.

        Raises:
            CheckpointError: the run belongs to another model, encoder, family or global guide; no parameter has been overwritten.
        """
        example = Batch(tuple(self.tensors["example_args"]), self.tensors["example_kwargs"])
        device = next((tensor.device for module in (guide, model) for tensor in _tensors(module)), torch.device("cpu"))
        on_device = example.to(device)
        try:
            # The parameters initialized here are overwritten below, so the caller's random state is left untouched.
            with random_state(0, device), model.program.own_parameters():
                guide.setup(*on_device.args, **on_device.kwargs)
                if any(name.startswith(_STANDARDIZATION) for name in self.tensors["guide"]):
                    guide.network.standardize(on_device)
        except AmortviError as error:
            raise CheckpointError(
                f"the run in {self.folder} does not belong to this model, encoder or family, which fail on its data; "
                f"{_AS_SAVED} {error}"
            ) from error
        for kind, here in (("latents", _latents(guide)), ("globals", _globals(guide))):
            saved = self.description[kind]
            if saved != here:
                raise CheckpointError(
                    f"the run in {self.folder} belongs to a model with the {_KINDS[kind]} {saved} (name: shape); this one has "
                    f"{here}; {_AS_SAVED}"
                )
        saved, label = self.description["global_guide"], guide_label(guide.network.global_posterior)
        if saved != label:
            raise CheckpointError(
                f"the global latents of the run in {self.folder} have the guide {saved}, here {label}: pass the one of the run "
                f"as global_guide=..."
            )
        self._check("the model", model, self.tensors["model"])
        self._check("encoder and family", guide, self.tensors["guide"])
        model.load_state_dict(self.tensors["model"])
        guide.load_state_dict(self.tensors["guide"])
        trainer.records.extend(self.records)
        trainer.convergence = self.convergence
        trainer.restore_optimizer(self.tensors["optimizer"])
        return example

    def _check(self, what: str, module: nn.Module, saved: dict[str, Any]) -> None:
        """Compare names and shapes first, because a failing ``load_state_dict`` overwrites some of the parameters."""
        here = {name: _shape(value) for name, value in module.state_dict().items()}
        there = {name: _shape(value) for name, value in saved.items()}
        common = [name for name in here.keys() & there.keys() if here[name] != there[name]]
        wrong = [
            *(f"{name} is not in the run" for name in here.keys() - there.keys()),
            *(f"{name} is only in the run" for name in there.keys() - here.keys()),
            *(f"{name} has shape {there[name]} in the run, {here[name]} here" for name in common),
        ]
        if wrong:
            shown = "; ".join(sorted(wrong)[:5]) + ("; and more" if len(wrong) > 5 else "")
            raise CheckpointError(f"the run in {self.folder} does not match {what}: {shown}; {_AS_SAVED}")


def _latents(guide: AmortizedGuide) -> dict[str, list[int]]:
    """Return the names and shapes of the latent sites, by which a model is recognized."""
    return {site.name: list(site.shape) for site in guide.latents.sites}


def _globals(guide: AmortizedGuide) -> dict[str, list[int]]:
    """Return the names and shapes of the global latents."""
    return {site.name: list(site.shape) for site in guide.model.structure.globals}


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an entry of a state dict, which need not be a tensor."""
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _plain(value: Any) -> Any:
    """Replace NumPy scalars, such as learning rates set by a schedule, with numbers that ``weights_only`` can load."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def _digest(path: Path) -> str:
    """Return the hash by which the description recognizes damaged tensors and those of another run."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(*paths: Path) -> Iterator[list[Path]]:
    """Provide temporary paths that replace ``paths`` after everything has been written."""
    partial = [path.with_name(path.name + ".partial") for path in paths]
    try:
        yield partial
        for written, path in zip(partial, paths, strict=True):
            written.replace(path)
    finally:
        for written in partial:
            written.unlink(missing_ok=True)
