"""`AmortizedVI`, the estimator that users import: a model, an encoder and a family, trained together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from torch import nn

from amortvi._util.keyword_options import accepts_options
from amortvi._util.undo import undone_on_error
from amortvi.data import Observations
from amortvi.errors import DataError, NotFittedError
from amortvi.families import FamilyChoice
from amortvi.inference.arviz_export import ArvizExport
from amortvi.inference.encoder_training import train_encoder
from amortvi.inference.label_prediction import LabelPrediction
from amortvi.inference.scikit_learn import ScikitLearnInterface, accepts_no_labels
from amortvi.inference.state import EXAMPLE_SIZE
from amortvi.inference.training_record import TrainingRecord
from amortvi.io import Checkpoints, SavedRun, load_run, save_run
from amortvi.model import Model
from amortvi.posterior import AmortizedGuide, Posterior
from amortvi.posterior.global_latents import GlobalGuideChoice
from amortvi.posterior.labels import LabelChoice
from amortvi.training import EncoderOptions, FitOptions, Trainer, join

__all__ = ["STANDARDIZED_BY", "AfterFit", "AmortizedVI"]

STANDARDIZED_BY = 4096
"""The observations from which the encoder's inputs are standardized."""


class AmortizedVI(ScikitLearnInterface, TrainingRecord, ArvizExport, LabelPrediction):
    """Amortized variational inference for a Pyro model with latents for each observation.

    Args:
        model: a Pyro model with batch-first arguments, one plate over the observations, and continuous latents inside it; there
            may be global latents outside it. It is trained in place, unless it is frozen.
        encoder: an `nn.Module` called with the model's arguments that returns a context ``(B, C)``. It is trained in place.
        family: a name (``"diagonal"``, ``"full"``, ``"low_rank"``, ``"flow"``), a family class, or a family with options such
            as ``LowRank(rank=5)``.
        plate: the name of the data plate, if several qualify.
        freeze_model: whether to train only the posterior and leave the model's parameters as they are.
        global_guide: makes the posterior of the global latents; see `AmortizedGuide`.
        labels: the argument of the model that holds labels, of which some are missing; see `Labels`.

    Raises:
        ModelError: the model is not callable.
        EncoderError: the encoder is not an `nn.Module`.
        FamilyError: the family is unknown.
        OptionError: ``global_guide`` or ``labels`` has the wrong type.

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
        global_guide: GlobalGuideChoice | None = None,
        labels: LabelChoice | None = None,
    ) -> None:
        self._model = Model(model.program if isinstance(model, Model) else model, plate=plate)
        self._guide = AmortizedGuide(self._model, encoder, family, global_guide=global_guide, labels=labels)
        self._trainer = Trainer(self._model, self._guide.network, freeze_model)
        self.family = family
        self._choices = {
            "family": family,
            "plate": plate,
            "freeze_model": freeze_model,
            "global_guide": global_guide,
            "labels": labels,
        }

    @property
    def model(self) -> Callable[..., Any]:
        """The model with its learned parameters; it can be given to another `AmortizedVI`."""
        program = self._model.program
        return program.model if isinstance(program.model, nn.Module) else program

    @property
    def encoder(self) -> nn.Module:
        """The encoder."""
        return self._guide.network.encoder

    @property
    def guide(self) -> AmortizedGuide:
        """The guide, which also works in plain Pyro."""
        return self._guide

    @accepts_no_labels
    @accepts_options(FitOptions)
    def fit(self, x: Any, options: FitOptions) -> AmortizedVI:
        """Train encoder, posterior family and model (unless it is frozen); a further call continues the training.

        Ctrl-C ends the fit and keeps what was learned. With early stopping, the best parameters are restored at the end.

        Args:
            x: the observations, batch first: a tensor, NumPy array or DataFrame, a tuple (positional arguments) or dict
                (keyword arguments) of these, a torch `Dataset` or a `DataLoader`.
            y: ``None``, which scikit-learn's pipelines pass.
            options: the fields of `FitOptions`, each as a keyword argument.

        Returns:
            The estimator itself.

        Raises:
            DataError: the observations are empty, not finite, of unequal lengths, or of the wrong type or shape.
            ModelError: the model is not supported.
            EncoderError: the encoder fails on the observations.
            OptionError: an option is unknown or out of range.
            TrainingDiverged: the loss is not finite; the parameters are then those of the last good epoch.
            CaptureError: ``compile=True``, but the step cannot be recorded or compiled.
            DistributedError: another process of a distributed fit has failed.
        """
        with self._restored_on_error(), contextlib.ExitStack() as stack:
            group = stack.enter_context(join(options))
            writes = options.checkpoint is not None and group.is_first
            checkpoints = [stack.enter_context(Checkpoints(options))] if writes else []
            for each in checkpoints:
                options = each.seeded(options)
            options = group.seeded(options)
            train, validation, options = self._prepared(x, options)
            if options.standardize and not self._trainer.records:
                self._guide.network.standardize(train.sample(STANDARDIZED_BY).to(self.device))
            self._objective = repr(options.objective)
            self._add_call("fit", train, options)
            if group.from_first(any(each.prepare(self._run(), options, train, validation) for each in checkpoints)):
                self._trainer.share(group)
            else:
                with self._guide.network.trained_on(train, self.device):
                    self._trainer.run(options, train, validation, self.device, checkpoints, group)
                for each in checkpoints:
                    each.finish()
        return self._fitted(train, options)

    @accepts_options(EncoderOptions)
    def fit_encoder(self, x: Any, options: EncoderOptions) -> AmortizedVI:
        """Train encoder and family further, on the observations and on replicates of them; the model does not change.

        A fit sees each observation many times, and its encoder becomes better at them than at new ones: most of what is lost on
        held-out data is often the amortization gap. But a trained model can simulate data without end. In each epoch, each
        observation is joined by replicates from its posterior predictive distribution, as in the sleep phase of a Helmholtz
        machine (Dayan et al., 1995), whose latents come from the prior instead. The objective is the same for all of them.

        The ELBO in `history` is then that of observations and replicates; that of validation data remains comparable. `status`
        is that of the earlier fit if it had not converged.

        Args:
            x: observations, as for `fit`, in memory.
            options: the fields of `EncoderOptions`, each as a keyword argument.

        Returns:
            The estimator itself.

        Raises:
            NotFittedError: no epoch has been trained.
            DataError: the observations cannot be used, or are not in memory.
            ModelError: data cannot be simulated from the model; see `diagnostics.simulate_observations`.
            OptionError: an option is unknown or out of range.
            TrainingDiverged: the loss is not finite; the parameters are then those of the last good epoch.
            CaptureError: ``compile=True``, but the step cannot be recorded or compiled.

        Example:
            >>> import torch, amortvi as avi
            >>> model = avi.models.LinearGaussian(torch.ones(3, 1), scale=1.0)
            >>> x = model.simulate(50, seed=0)
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(3), "full", freeze_model=True)
            >>> vi = vi.fit(x, epochs=20, seed=0, progress=False).fit_encoder(x, epochs=20, seed=0, progress=False)
            >>> len(vi.history)
            40
        """
        if not self._trainer.records:
            raise NotFittedError("fit_encoder continues a fit: call fit first.")
        with self._restored_on_error():
            train, validation, options = self._prepared(x, options)
            if not train.in_memory:
                raise DataError(f"fit_encoder needs observations in memory; got a DataLoader for {train.name}.")
            self._add_call("fit_encoder", train, options)
            with self._guide.network.trained_on(train, self.device):
                train_encoder(self._trainer, options, train.as_batch(), validation, self.device)
        return self._fitted(train, options)

    def _add_call(self, method: str, train: Observations, options: FitOptions) -> None:
        options_given = options.describe()
        size = "observations" if train.size is None else f"{train.size} observations"
        self._calls = (*self._calls, f"{method}({size}{', ' * bool(options_given)}{options_given})")

    def _fitted(self, train: Observations, options: FitOptions) -> AmortizedVI:
        self._has_warned = False
        for function in self.after_fit:
            function(self, train, options)
        return self

    def posterior(self, x: Any, *, copy: bool = True) -> Posterior:
        if isinstance(x, Posterior):
            raise DataError(
                "x must be observations; got a Posterior: pass it as posterior=... where a method accepts one."
            )
        example, observations = self.example, self._read(x, self.dtype, "x")
        observations.check_ordered()
        example.check_compatible(observations.first(1), "x", "the training data")
        if observations.in_memory:
            self._guide.network.check_labels(observations.as_batch())
        network = self._guide.network.frozen() if copy else self._guide.network
        return Posterior(self._model, network, observations, self.device)

    def save(self, path: str | Path, *, example: bool = True) -> None:
        """Save what was learned to a file, which is replaced only once the new one is complete.

        The file is in the format of safetensors, and its metadata are JSON, so that loading it runs no code.

        Args:
            path: the file, such as ``"run.safetensors"``; folders that do not exist are created.
            example: whether the file contains up to 16 of the observations, from which `load` reads the structure of the model.
                Without them, pass observations to `load`.

        Raises:
            NotFittedError: no data have been seen.
            CheckpointError: the file cannot be written; one of that name is then as it was.
        """
        save_run(self._run(), path, example=example)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Callable[..., Any],
        encoder: nn.Module,
        family: FamilyChoice | None = None,
        *,
        plate: str | None = None,
        global_guide: GlobalGuideChoice | None = None,
        labels: LabelChoice | None = None,
        example: Any = None,
    ) -> AmortizedVI:
        """Load a saved run into a model and an encoder that are built as before.

        Args:
            path: the file, or the folder of ``fit(checkpoint=...)``, of which the newest checkpoint is loaded.
            model: the Pyro model; its parameters are overwritten.
            encoder: the encoder; its parameters are overwritten.
            family: required unless the family was chosen by name.
            plate: the name of the data plate, if it was given to the saved estimator.
            global_guide: makes the posterior of the global latents, if it was given to the saved estimator.
            labels: as for the saved estimator.
            example: observations like those of the fit, required if the run was saved without.

        Returns:
            The estimator as it was saved; a further `fit` continues the training.

        Raises:
            CheckpointError: the file cannot be read, or belongs to another model, encoder, family or global guide; nothing has
                changed.
        """
        saved = load_run(path)
        with undone_on_error(*(each for each in (model, encoder) if isinstance(each, nn.Module))):
            options: dict[str, Any] = {"plate": plate, "global_guide": global_guide, "labels": labels}
            vi = cls(model, encoder, saved.family(family), freeze_model=saved.freeze_model, **options)
            vi._restore(saved, example)
        return vi

    def _restore(self, saved: SavedRun, example: Any) -> None:
        self.to(dtype=saved.dtype)
        given = None if example is None else self._read(example, saved.dtype, "example").first(EXAMPLE_SIZE)
        self._example, self._objective = saved.example_or(given), saved.objective
        saved.restore(self._run())
        self._guide.network.family.settle()  # of a checkpoint of a fit that was not finished


AfterFit: TypeAlias = Callable[[AmortizedVI, Observations, FitOptions], None]
