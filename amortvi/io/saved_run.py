"""Saved runs: one file with what was learned, and what is needed to interpret it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amortvi._util import __version__
from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import AmortviError, CheckpointError
from amortvi.families import NAMED, FamilyChoice, family_label
from amortvi.io.files import read_tree, write_tree
from amortvi.io.fingerprint import Fingerprint, differences, fingerprint, shapes
from amortvi.model import Model
from amortvi.posterior import AmortizedGuide
from amortvi.training import Convergence, EpochRecord, Trainer

__all__ = ["FORMAT", "NewerFormatError", "RunState", "SavedRun", "load_file", "save_run"]

FORMAT = 1
"""The version of the format, which changes with what a file contains."""
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64)}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "amortvi": str,
    "family": str,
    "is_named": bool,
    "dtype": str,
    "objective": str,
    "freeze_model": bool,
    "fingerprint": dict,
    "history": Tensor,
    "convergence": (dict, type(None)),
    "model": dict,
    "guide": dict,
    "optimizer": (dict, type(None)),
    "example": (dict, type(None)),
    "fit": (dict, type(None)),
}
_COLUMNS = [field.name for field in fields(EpochRecord)]
_AS_SAVED = "build model, encoder and family as they were when the run was saved."


class NewerFormatError(CheckpointError):
    """A file was saved by a newer version."""


@dataclass(frozen=True)
class RunState:
    """The state of one run.

    Args:
        model: the generative model.
        guide: the guide, set up.
        trainer: the trainer.
        example: a few observations, from which a loaded guide reads the structure of the model.
        objective: the objective of the last fit.
        family: the family, as the user has chosen it.
    """

    model: Model
    guide: AmortizedGuide
    trainer: Trainer
    example: Batch
    objective: str
    family: FamilyChoice

    def fingerprint(self) -> Fingerprint:
        """Return the description by which a saved run recognizes its model and posterior."""
        device = next((tensor.device for tensor in self.guide.parameters()), torch.device("cpu"))
        with random_state(0, device):
            return fingerprint(self.model, self.guide, self.example.to(device))

    def tree(self, parts: Fingerprint, *, example: bool = True, fit: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what a file contains.

        Args:
            parts: the `fingerprint`.
            example: whether to include the example.
            fit: the state of a fit that is to be resumed.
        """
        parameters = next(tensor for tensor in self.guide.parameters() if tensor.is_floating_point())
        records, convergence = self.trainer.records, self.trainer.convergence
        return {
            "format": FORMAT,
            "amortvi": __version__,
            "family": family_label(self.family),
            # A callable that happens to be called "full" is not the family of that name.
            "is_named": isinstance(self.family, str),
            "dtype": str(parameters.dtype).removeprefix("torch."),
            "objective": self.objective,
            "freeze_model": self.trainer.freeze_model,
            "fingerprint": parts,
            "history": torch.tensor([tuple(vars(each).values()) for each in records], dtype=torch.float64).reshape(
                -1, len(_COLUMNS)
            ),
            "convergence": None if convergence is None else asdict(convergence),
            "model": _state(self.model),
            "guide": _state(self.guide),
            "optimizer": self.trainer.optimizer_state(),
            "example": {"args": list(self.example.args), "kwargs": dict(self.example.kwargs)} if example else None,
            "fit": fit,
        }


def save_run(run: RunState, path: str | Path, *, example: bool) -> None:
    """Write a run to a file, which replaces an existing one only once it is complete; see `AmortizedVI.save`."""
    file = Path(path)
    if file.is_dir():
        inside = str(file / "run.safetensors")
        raise CheckpointError(f"path={str(path)!r} is a folder; pass the name of a file, such as {inside!r}.")
    tree = run.tree(run.fingerprint(), example=example)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tree(file, tree)
    except OSError as error:
        raise CheckpointError(
            f"the run cannot be saved to {file}: {error}. A file of that name is as it was."
        ) from error


def load_file(file: Path) -> SavedRun:
    """Read a saved run, or raise `CheckpointError` if it cannot be read."""
    try:
        tree = read_tree(file)
        if isinstance(tree["format"], int) and tree["format"] > FORMAT:
            raise NewerFormatError(
                f"{file} was saved by amortvi {tree['amortvi']} in format {tree['format']}, newer than format {FORMAT} of this "
                f"version, {__version__}: upgrade amortvi."
            )
        wrong = [name for name, kind in _TYPES.items() if not isinstance(tree[name], kind)]
        texts = [text for parts in tree["fingerprint"].values() for text in parts.values()]
        wrong += [text for text in texts if not isinstance(text, str)]
        if wrong or tree["format"] != FORMAT or tree["dtype"] not in _DTYPES:
            raise ValueError("the content is not what save writes")
        records = [EpochRecord(int(epoch), *numbers) for epoch, *numbers in tree["history"].tolist()]
        convergence = None if tree["convergence"] is None else Convergence(**tree["convergence"])
        example = None if tree["example"] is None else Batch(tuple(tree["example"]["args"]), tree["example"]["kwargs"])
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} does not exist.") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    except Exception as error:
        # A damaged file can make the readers raise any error, whose message does not help the user.
        raise CheckpointError(
            f"{file} is damaged, or no run that amortvi {__version__} has saved ({type(error).__name__}: {error})."
        ) from error
    return SavedRun(file, tree, records, convergence, example)


@dataclass(frozen=True)
class SavedRun:
    """The content of a file.

    Args:
        file: the file.
        tree: its content.
        records: the history.
        convergence: how the last fit ended.
        example: a few observations, if they were saved.
    """

    file: Path
    tree: dict[str, Any]
    records: list[EpochRecord]
    convergence: Convergence | None
    example: Batch | None

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return _DTYPES[self.tree["dtype"]]

    @property
    def freeze_model(self) -> bool:
        """Whether only the posterior was trained."""
        return bool(self.tree["freeze_model"])

    @property
    def objective(self) -> str:
        """The objective of the last fit."""
        return str(self.tree["objective"])

    def family(self, given: FamilyChoice | None) -> FamilyChoice:
        """Return the given family, or else the one saved by name; raise `CheckpointError` if there is neither."""
        saved = str(self.tree["family"])
        if given is None and not (self.tree["is_named"] and saved in NAMED):
            raise CheckpointError(
                f"the run in {self.file} was fitted with the family {saved}, not chosen by name: pass it again as family=..."
            )
        return saved if given is None else given

    def example_or(self, given: Batch | None) -> Batch:
        """Return the example of the run or the given one; raise `CheckpointError` if there is neither."""
        found = self.example if given is None else given
        if found is None:
            raise CheckpointError(
                f"{self.file} was saved with example=False: pass observations like those of the fit as example=..."
            )
        return found

    def restore(self, run: RunState) -> None:
        """Load the run into objects that are built as before.

        Raises:
            CheckpointError: the run belongs to another model, encoder, family or global guide; nothing has changed.
        """
        self._setup(run)
        here = {"shape of": shapes("model", _state(run.model)) | shapes("guide", _state(run.guide))}
        saved = {"shape of": shapes("model", self.tree["model"]) | shapes("guide", self.tree["guide"])}
        found = differences(self.tree["fingerprint"], run.fingerprint()) or differences(saved, here)
        if found:
            shown = "; ".join(found[:5]) + ("; and more" if len(found) > 5 else "")
            raise CheckpointError(f"the run in {self.file} does not match {shown}; {_AS_SAVED}")
        for name, module in (("model", run.model), ("guide", run.guide)):
            _load_state(module, self.tree[name])
        run.trainer.records[:] = self.records
        run.trainer.convergence = self.convergence
        run.trainer.restore_optimizer(self.tree["optimizer"])

    def _setup(self, run: RunState) -> None:
        """Create the parameters that `restore` overwrites, unless they exist."""
        device = next(
            (each.device for module in (run.guide, run.model) for each in module.parameters()), torch.device("cpu")
        )
        example = run.example.to(device)
        try:
            with random_state(0, device), run.model.program.own_parameters():
                run.guide.setup(*example.args, **example.kwargs)
                if _is_standardized(self.tree["guide"]) and not _is_standardized(run.guide.state_dict()):
                    run.guide.network.standardize(example)
        except AmortviError as error:
            raise CheckpointError(
                f"the run in {self.file} does not belong to this model, encoder or family, which fail on its data; "
                f"{_AS_SAVED} {error}"
            ) from error


def _is_standardized(state: dict[str, Any]) -> bool:
    return any(name.startswith("network.standardization.") for name in state)


def _state(module: nn.Module) -> dict[str, Any]:
    """Return parameters, extra states and buffers, also those that ``state_dict`` leaves out."""
    state = module.state_dict()
    return {**dict(module.named_buffers()), **state}


def _load_state(module: nn.Module, state: dict[str, Any]) -> None:
    own = module.state_dict().keys()
    module.load_state_dict({name: value for name, value in state.items() if name in own})
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(state[name])
