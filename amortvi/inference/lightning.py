"""Training of an estimator by Lightning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyro
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from amortvi._util.checks import positive_float
from amortvi._util.lazy import require
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import Batch, as_observations
from amortvi.errors import DataError, NonFiniteError, OptionError
from amortvi.inference.estimator import STANDARDIZED_BY, AmortizedVI
from amortvi.objectives import Estimate, ObjectiveChoice, default_objective, make_objective
from amortvi.training import OptimizerFactory
from amortvi.training.adam import adam
from amortvi.training.modules import TrainedModules
from amortvi.training.timetable import Timetable

if TYPE_CHECKING:
    from lightning import LightningModule
else:
    LightningModule = require("lightning", extra="lightning", purpose="AmortizedModule").LightningModule

__all__ = ["AmortizedModule"]


class AmortizedModule(LightningModule):
    """Trains an `AmortizedVI` with the trainer of Lightning, which provides loggers, callbacks, checkpoints and accelerators.

    The estimator is set up at once, and its model and encoder are trained in place: when ``Trainer.fit`` has ended, ``vi`` has
    posteriors, exports and diagnostics as after `AmortizedVI.fit`, apart from `history` and `status`. Its own `fit` is faster,
    because it records its steps, ends by itself and undoes an epoch that diverges; use this class if the rest of a project is
    built on Lightning.

    A step has the objective of `AmortizedVI.fit`: the mean bound of the minibatch, plus the terms outside the data plate divided
    by the number of all observations. Schedules of an objective, such as that of the weight of the KL, follow Lightning's epochs.
    If ``max_epochs`` or ``max_steps`` is finite, the learning rate falls over the second half of the fit and, if model and
    posterior are trained together, the posterior is diagonal at first. Set ``gradient_clip_val=10.0`` in Lightning's trainer to
    clip gradients like `fit`, and call ``lightning.seed_everything`` to reproduce a fit. For several processes, use
    ``AmortizedVI.fit(distributed=True)``.

    Logged are ``train_elbo`` and ``val_elbo``, in nats per observation; validation has the same draws after each epoch.
    ``AmortizedModule.load_from_checkpoint(path, vi=vi, x=x)`` restores a checkpoint into an estimator that is built as before.

    Args:
        vi: the estimator, whose model, encoder and family are trained.
        x: the training data, as for `AmortizedVI.fit`, or a sample of them together with ``observations``. From these the
            structure of the model is read and the inputs of the encoder are standardized. The batches of Lightning's loaders hold
            the same arguments: a tensor, a tuple or list, or a dict.
        observations: the number of training observations; by default those in ``x``.
        lr: the largest learning rate.
        objective: as for `AmortizedVI.fit`.
        optimizer: as for `AmortizedVI.fit`.
        standardize: as for `AmortizedVI.fit`; an estimator that was fitted before keeps its statistics.
        seed: makes the initial parameters of the family reproducible.

    Raises:
        MissingDependencyError: Lightning is not installed.
        OptionError: an option is out of range, or the estimator has ``labels=``.
        AmortviError: observations, model or encoder cannot be used.

    Example:
        .. code-block:: python

            loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=128, shuffle=True)
            lightning.Trainer(max_epochs=20, gradient_clip_val=10.0).fit(AmortizedModule(vi, x), loader)
            vi.posterior(x).mean
    """

    def __init__(
        self,
        vi: AmortizedVI,
        x: Any,
        *,
        observations: int | None = None,
        lr: float = 5e-3,
        objective: ObjectiveChoice = "auto",
        optimizer: OptimizerFactory = adam,
        standardize: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if vi.guide.network.classifier is not None:
            raise OptionError("AmortizedModule cannot train an estimator with labels=: use its own fit.")
        self.lr = positive_float("lr", lr)
        chosen = None if objective == "auto" else make_objective(objective)
        train = as_observations(x, vi.dtype, "x")
        vi.setup(train, seed=seed)
        self.vi, self.model, self.network = vi, vi.generative, vi.guide.network
        self.optimizer = optimizer
        self.objective = chosen or default_objective(self.model.structure)
        self._observations = self._count(train.size if observations is None else observations)
        self._was_trained = bool(len(vi.history))
        if standardize and not self._was_trained:
            self.network.standardize(train.sample(STANDARDIZED_BY).to(vi.device))
        self._timetable: Timetable | None = None

    def _count(self, observations: int | None) -> int | None:
        structure = self.model.structure
        if observations is None and structure.globals and structure.full_size is None:
            raise DataError(
                "the number of observations in x is unknown, but they share the KL of the global latents: pass observations=."
            )
        return observations or structure.full_size

    @property
    def _modules_trained(self) -> TrainedModules:
        return TrainedModules(self.model, self.network, freeze_model=self.vi.freeze_model)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and, if the length of the fit is known, the schedule of its learning rate."""
        modules = self._modules_trained
        optimizer = self.optimizer(modules.parameters, lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            return optimizer
        joint = not self.vi.freeze_model and any(each.requires_grad for each in self.model.parameters())
        # Its unit of time is here the whole fit.
        table = Timetable(1, ends_by_itself=False, locks=joint and not self._was_trained, decays=True, fewest_epochs=1)
        self._timetable = table
        schedule = LambdaLR(optimizer, lambda step: table.rate(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Refuse half precision."""
        if self.trainer.precision not in ("32-true", "64-true"):
            raise OptionError(
                f"precision must be '32-true' or '64-true' in Lightning's trainer, because half precision has too few digits for "
                f"densities; got {self.trainer.precision!r}."
            )
        self.objective.to(self.device)

    def on_train_start(self) -> None:
        """Set the training mode, except of a frozen model."""
        self.train()
        if self.vi.freeze_model:
            self.model.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a minibatch.

        Raises:
            DataError: the batch cannot be used.
            NonFiniteError: the loss is NaN or infinite; the parameters are those before the step.
        """
        self._advance(batch_idx)
        data = self._read(batch)
        if self.current_epoch == 0:
            self.model.check_data(data)
        estimate = self._estimate(data)
        loss = estimate.loss(self._observations)
        if not bool(loss.isfinite()):
            raise NonFiniteError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, batch {batch_idx}: use a smaller lr, or check the "
                f"data for extreme values. The parameters are those before this step."
            )
        self._log("train_elbo", estimate, data)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the bound of held-out observations."""
        data = self._read(batch)
        if self.current_epoch == 0:
            self.model.check_data(data)
        with random_state(derived_seed(0, Stream.VALIDATION, batch_idx), self.device):
            self._log("val_elbo", self._estimate(data), data)

    def on_train_end(self) -> None:
        """Unlock the whole posterior without changing it, and leave all modules in training mode, as they were."""
        self.network.family.settle()
        self.train()

    def _advance(self, batch_idx: int) -> None:
        """Update what changes during training."""
        batches = self.trainer.num_training_batches
        self.objective.advance(self.current_epoch + (batch_idx / batches if batches < math.inf else 0.0))
        if self._timetable is not None:
            self.network.family.unlock(
                self._timetable.unlocked(self.global_step / self.trainer.estimated_stepping_batches)
            )

    def _read(self, batch: Any) -> Batch:
        # The default collation turns a tuple into a list.
        arguments = tuple(batch) if isinstance(batch, list) else batch
        return as_observations(arguments, self.vi.dtype, "batch").as_batch()

    def _estimate(self, data: Batch) -> Estimate:
        # The data are checked once, in the first epoch.
        with self.model.program.own_parameters(), pyro.validation_enabled(False):
            return self.objective.estimate(self.model, self.network, data)

    def _log(self, name: str, estimate: Estimate, data: Batch) -> None:
        elbo = estimate.elbo(self._observations).detach()
        self.log(name, elbo, on_step=False, on_epoch=True, prog_bar=True, batch_size=data.size)
