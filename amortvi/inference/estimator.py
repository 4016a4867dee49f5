"""`AmortizedVI`, the estimator that users import: a model, an encoder and a family, trained together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from amortvi._util.keyword_options import accepts_options
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import DEFAULT_BATCH_SIZE, Batch, Observations, as_observations
from amortvi.errors import DataError, NonFiniteError, NotFittedError
from amortvi.families import FamilyChoice
from amortvi.inference.analysis import PosteriorAnalysis
from amortvi.inference.training_record import TrainingRecord
from amortvi.io import RunState, load_run, save_run
from amortvi.model import Model
from amortvi.posterior import AmortizedGuide, Posterior
from amortvi.training import FitOptions, Trainer, check_device, check_dtype

__all__ = ["AfterFit", "AmortizedVI"]

_EXAMPLE_SIZE = 16
_STANDARDIZED_BY = 4096
"""The observations from which the encoder's inputs are standardized."""


class AmortizedVI(TrainingRecord, PosteriorAnalysis):
    """Amortized variational inference for a Pyro model with latents for each observation.

    Args:
        model: a Pyro model with batch-first arguments, one plate over the observations, and continuous latents inside it. It
            is trained in place, unless it is frozen.
        encoder: an `nn.Module` called with the model's arguments that returns a context ``(B, C)``. It is trained in place.
        family: a name (``"diagonal"``, ``"full"``, ``"low_rank"``, ``"flow"``), a family class, or a family with options such
            as ``LowRank(rank=5)``.
        plate: the name of the data plate, if several qualify.
        freeze_model: whether to train only the posterior and leave the model's parameters as they are.

    Raises:
        ModelError: the model is not callable.
        EncoderError: the encoder is not an `nn.Module`.
        FamilyError: the family is unknown.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 0.3]]), scale=0.5)
        >>> x = model.simulate(500, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), family="full", freeze_model=True)
        >>> vi = vi.fit(x, seed=0, progress=False)
        >>> gap = model.log_evidence(x).mean() - vi.evaluate(x, particles=50, seed=0)["elbo"].mean()
        >>> vi.status, bool(gap < 0.01)
        ('converged', True)
    """

    after_fit: ClassVar[list[AfterFit]] = []
    """Functions called after each fit with the estimator, the training data and the options; one warns of inactive latents."""

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: nn.Module,
        family: FamilyChoice = "diagonal",
        *,
        plate: str | None = None,
        freeze_model: bool = False,
    ) -> None:
        self._model = Model(model.program if isinstance(model, Model) else model, plate=plate)
        self._guide = AmortizedGuide(self._model, encoder, family)
        self._trainer = Trainer(self._model, self._guide.network, freeze_model)
        self._example: Batch | None = None
        self._objective = "none"
        self.family = family

    @property
    def model(self) -> Callable[..., Any]:
        """The model with its learned parameters; it can be given to another `AmortizedVI`."""
        program = self._model.program
        return program.model if isinstance(program.model, nn.Module) else program

    @property
    def generative(self) -> Model:
        return self._model

    @property
    def encoder(self) -> nn.Module:
        """The encoder."""
        return self._guide.network.encoder

    @property
    def guide(self) -> AmortizedGuide:
        """The guide, which also works in plain Pyro."""
        return self._guide

    @property
    def example(self) -> Batch:
        if self._example is None:
            raise NotFittedError("this AmortizedVI has not seen data yet: call fit or setup first.")
        return self._example

    @property
    def objective(self) -> str:
        return self._objective

    @property
    def device(self) -> torch.device:
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.get_default_dtype())

    def _tensors(self) -> list[Tensor]:
        return [t for module in (self._guide, self._model) for t in (*module.parameters(), *module.buffers())]

    @accepts_options(FitOptions)
    def fit(self, x: Any, options: FitOptions) -> AmortizedVI:
        """Train encoder, posterior family and model (unless it is frozen); a further call continues the training.

        Ctrl-C ends the fit and keeps what was learned. With early stopping, the best parameters are restored at the end.

        Args:
            x: the observations, batch first: a tensor, NumPy array or DataFrame, a tuple (positional arguments) or dict
                (keyword arguments) of these, a torch `Dataset` or a `DataLoader`.
            options: the fields of `FitOptions`, each as a keyword argument.

        Returns:
            The estimator itself.

        Raises:
            DataError: the observations are empty, not finite, of unequal lengths, or of the wrong type or shape.
            ModelError: the model is not supported.
            EncoderError: the encoder fails on the observations.
            OptionError: an option is unknown or out of range.
            NonFiniteError: the loss is not finite; the parameters are then those of the last good epoch.
            CaptureError: ``compile=True``, but the step cannot be recorded or compiled.
        """
        dtype = options.dtype or self.dtype
        train = as_observations(x, dtype, "x")
        train.steps(options.batch_size)  # raises an error if a DataLoader has another batch size
        validation = None
        if isinstance(options.validation_data, float) and 0 < options.validation_data < 1:
            train, validation = train.split(options.validation_data, derived_seed(options.seed, Stream.SPLIT))
        elif options.validation_data is not None:
            validation = as_observations(options.validation_data, dtype, "validation_data")
            train.first(1).check_compatible(validation.first(1), "validation_data", "x")
        with self._restored_on_error():
            self.to(device=options.device, dtype=options.dtype)
            self._setup(train, options.batch_size or DEFAULT_BATCH_SIZE, options.seed)
            if options.standardize and not self._trainer.records:
                self._guide.network.standardize(train.sample(_STANDARDIZED_BY).to(self.device))
            self._objective = repr(options.objective)
            self._trainer.run(options, train, validation, self.device)
        self._has_warned = False
        for function in self.after_fit:
            function(self, train, options)
        return self

    def setup(self, x: Any, *, seed: int | None = None) -> AmortizedVI:
        """Read the structure of the model from data and create the parameters of the family, without training.

        `fit` calls this itself. Afterwards, all methods of a fitted estimator work, with the initial parameters.

        Args:
            x: observations, as for `fit`.
            seed: makes the initial parameters of the family reproducible.

        Returns:
            The estimator itself.

        Raises:
            DataError: the observations cannot be used.
            ModelError: the model is not supported.
            EncoderError: the encoder fails on the observations.
        """
        with self._restored_on_error():
            self._setup(as_observations(x, self.dtype, "x"), DEFAULT_BATCH_SIZE, seed)
        return self

    def _setup(self, observations: Observations, size: int, seed: int | None) -> None:
        example = observations.first(size)
        if self._example is not None:
            self._example.check_compatible(example, "x", "the training data")
        on_device = example.to(self.device)
        with random_state(derived_seed(seed, Stream.SETUP), self.device), self._model.program.own_parameters():
            self._guide.setup(*on_device.args, **on_device.kwargs)
        # A copy: a slice would keep all data in memory.
        self._example = example.take(slice(0, _EXAMPLE_SIZE)).map(torch.clone)

    @contextlib.contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """Restore example, objective, standardization, device and dtype after an error, unless training has begun."""
        before, placement = (self._example, self._objective), (self.device, self.dtype)
        network, standardization = self._guide.network, self._guide.network.standardization
        epochs = len(self._trainer.records)
        try:
            yield
        except NonFiniteError:
            raise  # training has begun, and the parameters of the last good epoch are kept
        except Exception:  # whatever failed; it is raised again
            if len(self._trainer.records) == epochs:
                (self._example, self._objective), network.standardization = before, standardization
                if placement != (self.device, self.dtype):
                    self.to(*placement)
            raise

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> AmortizedVI:
        """Move model, guide and optimizer to a device, or convert them to a floating-point type.

        Args:
            device: such as ``"cpu"``, ``"cuda"`` or ``"mps"``.
            dtype: ``torch.float32`` or ``torch.float64``.

        Returns:
            The estimator itself.

        Raises:
            OptionError: the device is not available, or ``dtype`` is not a floating-point type.
        """
        if device is None and dtype is None:
            return self
        device = None if device is None else check_device("device", device)
        dtype = None if dtype is None else check_dtype("dtype", dtype)
        self._model.to(device=device, dtype=dtype)
        self._guide.to(device=device, dtype=dtype)
        self._trainer.move_optimizer()
        if self._example is not None and dtype is not None:
            self._example = self._example.map(lambda value: value.to(dtype) if value.is_floating_point() else value)
        return self

    def posterior(self, x: Any, *, copy: bool = True) -> Posterior:
        if isinstance(x, Posterior):
            raise DataError(
                "x must be observations; got a Posterior: pass it as posterior=... where a method accepts one."
            )
        example, observations = self.example, as_observations(x, self.dtype, "x")
        observations.check_ordered()
        example.check_compatible(observations.first(1), "x", "the training data")
        network = self._guide.network.frozen() if copy else self._guide.network
        return Posterior(self._model, network, observations, self.device)

    def save(self, path: str | Path) -> None:
        """Save what was learned to a folder, which is created if it does not exist.

        Args:
            path: the folder.

        Raises:
            NotFittedError: no data have been seen.
        """
        save_run(RunState(self._model, self._guide, self._trainer, self.example, self._objective), self.family, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Callable[..., Any],
        encoder: nn.Module,
        family: FamilyChoice | None = None,
        *,
        plate: str | None = None,
    ) -> AmortizedVI:
        """Load a saved run into a model and an encoder that are built as before.

        Args:
            path: the folder.
            model: the Pyro model; its parameters are overwritten.
            encoder: the encoder; its parameters are overwritten.
            family: required unless the family was chosen by name.
            plate: the name of the data plate, if it was given to the saved estimator.

        Returns:
            The estimator as it was saved; a further `fit` continues the training.

        Raises:
            CheckpointError: the folder cannot be read, or belongs to another model, encoder or family.
        """
        saved = load_run(path)
        vi = cls(model, encoder, saved.family(family), plate=plate, freeze_model=saved.freeze_model)
        vi.to(dtype=saved.dtype)
        vi._example = saved.restore(vi._model, vi._guide, vi._trainer)
        vi._objective = saved.objective
        return vi


AfterFit: TypeAlias = Callable[[AmortizedVI, Observations, FitOptions], None]
