"""The estimator that people import."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from amortvi import checkpoint, evaluation, export, predictive, usage
from amortvi._checks import natural_int, positive_int
from amortvi._modes import Stream, derived_seed, random_state
from amortvi._version import __version__
from amortvi.errors import NonFiniteError, NotFittedError, OptionError
from amortvi.families import FamilyChoice, family_label
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives import ObjectiveChoice, make_objective
from amortvi.observations import Batch, Observations, as_observations
from amortvi.observations.selection import some
from amortvi.posterior import Posterior
from amortvi.posterior_sources import Amortized
from amortvi.refinement import Refinement, RefineMethod, refine
from amortvi.resampling import proposals_or_none
from amortvi.training import CompileChoice, FitOptions, OptimizerFactory, ScheduleFactory, Trainer, history_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AmortizedVI"]

_EXAMPLE_ROWS = 16
_DEFAULT_BATCH = 128


class AmortizedVI:
    """Amortized variational inference for a Pyro model with latents for each observation.

    Args:
        model: a Pyro model: batch-first arguments, one plate over the observations, continuous latents inside it. It is
            trained in place, unless it is frozen.
        encoder: an `nn.Module` called with the model's arguments that returns a context ``(B, C)``. Trained in place.
        family: ``"diagonal"``, ``"full"``, ``"low_rank"``, or a callable ``(dim, context_features) -> Family``.
        plate: the name of the data plate, where the model has several that could be it.
        freeze_model: train the posterior only and leave the model's parameters as they are.

    Raises:
        ModelError: the model is not callable.
        EncoderError: the encoder is not an `nn.Module`.
        FamilyError: the family is unknown.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 0.3]]), scale=0.5)
        >>> x = model.simulate(500, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), family="full", freeze_model=True)
        >>> vi = vi.fit(x, epochs=30, lr=0.02, seed=0, progress=False)
        >>> gap = model.log_evidence(x).mean() - vi.evaluate(x, particles=50, seed=0)["elbo"].mean()
        >>> bool(gap < 0.1)
        True
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: nn.Module,
        family: FamilyChoice = "diagonal",
        *,
        plate: str | None = None,
        freeze_model: bool = False,
    ) -> None:
        self._generative = model if isinstance(model, GenerativeModel) else GenerativeModel(model)
        self._guide = AmortizedGuide(self._generative, encoder, family, plate=plate)
        self._trainer = Trainer(self._generative, self._guide, freeze_model)
        self._example: Batch | None = None
        self._objective_name = "none"
        self.family = family

    @property
    def model(self) -> Callable[..., Any]:
        """The model, with the parameters that were learned; it can be given to another `AmortizedVI`."""
        is_module = isinstance(self._generative.model, nn.Module)
        return self._generative.model if is_module else self._generative

    @property
    def encoder(self) -> nn.Module:
        """The encoder."""
        encoder = self._guide._modules["encoder"]
        assert encoder is not None
        return encoder

    @property
    def guide(self) -> AmortizedGuide:
        """The guide, which works in plain Pyro too."""
        return self._guide

    @property
    def generative(self) -> GenerativeModel:
        """The model as a module that owns its parameters; it is what diagnostics run."""
        return self._generative

    @property
    def example(self) -> Batch:
        """A few rows of the training data, as arguments of the model: their number, shapes and covariates.

        Raises:
            NotFittedError: the guide has not seen data yet.
        """
        if self._example is None:
            raise NotFittedError("there is no example of an observation yet: call fit first.")
        return self._example

    @property
    def freeze_model(self) -> bool:
        """Whether only the posterior is trained."""
        return self._trainer.freeze_model

    @property
    def device(self) -> torch.device:
        """Where the encoder's parameters are."""
        return next((p.device for p in self._parameters_and_buffers()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the parameters."""
        floating = (p.dtype for p in self._parameters_and_buffers() if p.is_floating_point())
        return next(floating, torch.get_default_dtype())

    def _parameters_and_buffers(self) -> list[Tensor]:
        modules = (self._guide, self._generative)
        return [t for m in modules for t in (*m.parameters(), *m.buffers())]

    def __repr__(self) -> str:
        epochs = len(self._trainer.records)
        return f"AmortizedVI(family={family_label(self.family)!r}, epochs={epochs})"

    def fit(
        self,
        x: Any,
        *,
        validation_data: Any = None,
        epochs: int = 100,
        batch_size: int | None = None,
        lr: float = 1e-3,
        objective: ObjectiveChoice = "elbo",
        optimizer: OptimizerFactory = torch.optim.Adam,
        lr_schedule: ScheduleFactory | None = None,
        gradient_clip: float | None = None,
        patience: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        compile: CompileChoice = "auto",
        seed: int | None = None,
        progress: bool = True,
    ) -> AmortizedVI:
        """Train encoder, posterior family and model (unless it is frozen). Called again, it goes on from where it was.

        Ctrl-C ends the fit and keeps what was learned. With early stopping the best parameters are restored at the end.

        Args:
            x: the observations, batch first: a tensor, NumPy array, DataFrame, a tuple (positional arguments) or dict
                (keyword arguments) of these, a torch `Dataset` or a `DataLoader`.
            validation_data: held-out observations in any of these forms, whose ELBO is in `history`.
            epochs: passes over the data.
            batch_size: observations a step, 128 by default; a `DataLoader` brings its own.
            lr: the learning rate.
            objective: ``"elbo"``, ``"iwae"`` (the importance-weighted bound of 5 draws), or an `objectives.Objective`, such as
                ``objectives.ELBO(kl_weight=objectives.LinearSchedule(epochs=20))``.
            optimizer: a `torch.optim` class, or a callable ``(parameters, lr=...) -> Optimizer``.
            lr_schedule: a callable ``(optimizer) -> schedule`` as in `torch.optim.lr_scheduler`; it steps once an epoch.
            gradient_clip: the largest norm of the gradient.
            patience: stop after this many epochs without a better validation ELBO, and restore the best parameters.
            device: where to train, such as ``"cuda"`` or ``"mps"``; by default where the encoder is.
            dtype: ``torch.float32`` or ``torch.float64``; by default the encoder's.
            compile: ``True`` records model, guide, gradient and optimizer as one graph and compiles it, once for each shape of
                a minibatch, which takes some seconds and then makes a step several times as fast; ``False`` runs plain
                PyTorch; ``"auto"`` compiles where at least 10,000 steps of a shape are to come, and falls back to plain PyTorch,
                with one warning, where that cannot be. The results are the same up to rounding.
            seed: reproduces the fit bit for bit on one machine, and leaves the caller's random state as it was.
            progress: show a progress bar with ELBO and time left.

        Returns:
            The estimator itself.

        Raises:
            DataError: the observations are empty, not finite, of different lengths, of a wrong type or shape.
            ModelError: the model is outside what amortized inference can take.
            EncoderError: the encoder fails on the observations.
            OptionError: an option is out of range.
            NonFiniteError: the loss is not finite; the parameters are then those of the last good epoch.
            CaptureError: ``compile=True``, and the step cannot be recorded or compiled.
        """
        options = FitOptions(
            epochs, batch_size, lr, optimizer, lr_schedule, gradient_clip, patience, compile, seed, progress
        )
        if options.patience is not None and validation_data is None:
            raise OptionError("patience needs validation_data: early stopping watches the validation ELBO.")
        bound = make_objective(objective)
        working = self.dtype if dtype is None else _floating(dtype)
        train = as_observations(x, working, "x")
        train.steps(options.batch_size)  # a DataLoader, which has a batch size of its own, refuses another
        validation = None if validation_data is None else as_observations(validation_data, working, "validation_data")
        example = train.first(options.batch_size or _DEFAULT_BATCH)
        self._check_alike(example, "x")
        if validation is not None:
            example.check_alike(validation.first(1), "validation_data", "x")
        with self._unchanged_by_bad_input():
            self.to(device=device, dtype=dtype)
            with random_state(derived_seed(options.seed, Stream.SETUP), self.device), self._generative.own_parameters():
                on_device = example.to(self.device)
                self._guide.setup(*on_device.args, **on_device.kwargs)
            self._example = example.take(slice(0, _EXAMPLE_ROWS))
            self._objective_name = repr(bound)
            self._trainer.run(bound, train, validation, options, self.device)
        # A model that is given may well have latents of which the data say nothing; one that learns chose not to use them.
        learns = not self.freeze_model and any(p.requires_grad for p in self._generative.parameters())
        if learns and len(self._trainer.records) * (train.steps(options.batch_size) or 1) >= usage.FEWEST_STEPS:
            usage.warn_of_dead_latents(self._generative, self._posterior(some(train, usage.LOOKED_AT)))
        return self

    @contextlib.contextmanager
    def _unchanged_by_bad_input(self) -> Iterator[None]:
        """Undo what a fit changed beside the parameters, if it fails for another reason than its loss."""
        before = self._example, self._objective_name
        placed = self.device, self.dtype
        records = len(self._trainer.records)
        try:
            yield
        except NonFiniteError:
            raise  # the fit is over, and what was learned before stays
        except Exception:
            if len(self._trainer.records) == records:
                self._example, self._objective_name = before
                if placed != (self.device, self.dtype):
                    self.to(*placed)
            raise

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: ELBO, reconstruction and KL in nats an observation, learning rate, seconds."""
        return history_frame(self._trainer.records)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> AmortizedVI:
        """Move model, guide and optimizer to a device, or convert them to a floating type.

        Args:
            device: such as ``"cpu"``, ``"cuda"`` or ``"mps"``.
            dtype: ``torch.float32`` or ``torch.float64``.

        Returns:
            The estimator itself.

        Raises:
            OptionError: the device is not there, or ``dtype`` is no floating type.
        """
        if dtype is not None:
            _floating(dtype)
        if device is not None:
            try:
                if torch.empty(0, device=device).is_meta:
                    raise RuntimeError("it holds shapes, not numbers")
            except (RuntimeError, AssertionError, TypeError) as error:
                reason = str(error).splitlines()[0]
                raise OptionError(f"device={str(device)!r} cannot be used on this machine: {reason}") from error
        if device is not None or dtype is not None:
            self._generative.to(device=device, dtype=dtype)
            self._guide.to(device=device, dtype=dtype)
            self._trainer.move_optimizer()
            if self._example is not None and dtype is not None:
                self._example = self._example.map(lambda value: value.to(dtype) if value.is_floating_point() else value)
        return self

    def posterior(self, x: Any) -> Posterior:
        """Return the posterior of each observation; it is computed when something of it is asked for.

        Args:
            x: observations, as for `fit`. A `Posterior` comes back as it is: so all that takes observations here, such as
                `evaluate` and `to_arviz`, takes a posterior that was refined or selected just as well.

        Raises:
            NotFittedError: the guide has not seen data yet.
            DataError: the observations cannot be used.
        """
        if isinstance(x, Posterior):
            return x
        return self._posterior(self._observations(x))

    def _posterior(self, observations: Observations) -> Posterior:
        return Posterior(self._guide.prototype, Amortized(self._guide), observations, self.device, self._generative)

    def refine(
        self,
        x: Any,
        family: FamilyChoice | None = None,
        *,
        method: RefineMethod = "lbfgs",
        draws: int | None = None,
        lr: float = 0.05,
        tolerance: float = 1e-4,
        max_steps: int = 2000,
        seed: int = 0,
    ) -> Posterior:
        """Optimize the posterior of each observation by itself, starting from the encoder's answer.

        What the ELBO gains is what amortization cost (Cremer, Li and Duvenaud, 2018). All observations are searched at once,
        each with steps of its own until it has converged; encoder and model stay as they are. An observation that
        the search does not make better keeps the encoder's answer.

        Args:
            x: observations, as for `fit`, or a `Posterior` to start from.
            family: the family to search in, as for `AmortizedVI`; by default that of the posterior that it starts from.
            method: ``"lbfgs"`` maximises the ELBO on noise that is held fixed, to any accuracy; ``"adam"`` follows noisy
                gradients, for posteriors so far from Gaussian that fixed noise does not stand for them.
            draws: draws of the ELBO that is maximised; by default four to a dimension, and 32 at least.
            lr: Adam's learning rate.
            tolerance: in nats; an observation has converged when the search promises no more than this.
            max_steps: after which an observation counts as not converged, of which there is a warning.
            seed: of the noise; the caller's random state stays as it was.

        Returns:
            The posteriors, like those of `posterior`; the observations are held in memory.

        Raises:
            NotFittedError: the guide has not seen data yet.
            DataError: the observations cannot be used.
            FamilyError: the family is unknown, or cannot start from the posterior of another.
            OptionError: an option is out of range.

        Example:
            >>> import torch, amortvi as avi
            >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
            >>> x = model.simulate(10, seed=0)
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [4]), "full").fit(x, epochs=1, progress=False, seed=0)
            >>> refined = vi.refine(x)
            >>> bool(torch.allclose(refined.mean["z"], model.posterior(x).mean, atol=0.05))
            True
        """
        options = Refinement(method, draws, lr, tolerance, max_steps)
        return refine(self._generative, self.posterior(x), family, options, natural_int("seed", seed))

    def evaluate(self, x: Any, *, particles: int = 100, seed: int | None = None) -> pd.DataFrame:
        """Return bounds of ``log p(x)`` in nats, a row an observation.

        Args:
            x: observations, as for `fit`.
            particles: draws for each observation.
            seed: reproduces the draws and leaves the caller's random state as it was.

        Returns:
            Columns ``elbo`` (the mean log weight; a term outside the data plate is not counted), ``elbo_se`` (its Monte
            Carlo standard error), ``reconstruction``, ``kl`` (exact where it is known), and ``iwae``, the
            importance-weighted bound with ``particles`` draws.

        Raises:
            NotFittedError: the guide has not seen data yet.
            DataError: the observations cannot be used.
            OptionError: ``particles`` is not a positive integer.
        """
        count = positive_int("particles", particles)
        posterior = self.posterior(x)
        with random_state(seed, self.device):
            return evaluation.evaluate(self._generative, posterior, count)

    def predict(self, x: Any, draws: int = 100, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draw new data for each observation from the posterior predictive.

        Args:
            x: observations, as for `fit`.
            draws: draws for each observation.
            seed: reproduces the draws and leaves the caller's random state as it was.

        Returns:
            For each observed (and deterministic) site in the data plate ``(draws, N, *nested, *event)``.

        Raises:
            NotFittedError: the guide has not seen data yet.
            DataError: the observations cannot be used.
            OptionError: ``draws`` is not a positive integer.
        """
        count = positive_int("draws", draws)
        posterior = self.posterior(x)
        with random_state(seed, self.device):
            return predictive.predict(self._generative, posterior, count)

    def sample_prior(self, n: int, x: Any = None, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draw latents and data from the model alone.

        Args:
            n: how many draws.
            x: observations whose sizes and covariates the draws are for, taken in turn; by default some of the training
                data.
            seed: reproduces the draws and leaves the caller's random state as it was.

        Returns:
            For each site in the data plate ``(n, *nested, *event)``.

        Raises:
            NotFittedError: the guide has not seen data yet.
            OptionError: ``n`` is not a positive integer.
        """
        count = positive_int("n", n)
        if self._example is None:
            raise NotFittedError("sample_prior needs to know what an observation looks like: call fit first.")
        source = self._example if x is None else self._observations(x).first(count)
        with random_state(seed, self.device):
            return predictive.sample_prior(self._generative, self._guide.prototype, source.to(self.device), count)

    def to_arviz(
        self,
        x: Any,
        draws: int = 1000,
        *,
        posterior_predictive: bool = True,
        prior_draws: int = 100,
        resample: bool = False,
        proposals: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return draws and log-probabilities for ArviZ.

        Groups: ``posterior`` (with deterministic sites), ``sample_stats`` (``log_q``, ``log_joint`` and ``log_weight`` of
        each observation), ``log_likelihood`` (of each observation), ``observed_data``, ``constant_data`` (the model's other
        arguments), ``posterior_predictive``, ``prior`` and ``prior_predictive``. Dimensions: ``chain`` (one), ``draw``,
        the name of the data plate, nested plates, and ``<site>_dim_<i>``; a DataFrame's index labels the observations.

        The draws are independent and come from ``q``, not from the exact posterior; ``log_weight`` is what corrects that. With
        ``resample=True`` it is corrected already: there is no ``log_weight`` then, which must not be applied twice, and the
        attribute ``resampled_from`` says how many proposals the draws were chosen from.
        They make one chain, so r-hat says nothing: ``az.summary(data, kind="stats")``. Where the only latents are those of
        each observation, leaving one out leaves the prior: its elpd is ``log p(x)``, which the log of the mean weight
        estimates directly, while ``az.loo`` goes by the likelihood alone and rightly warns of a high k-hat.

        Args:
            x: observations, as for `fit`.
            draws: posterior draws of each observation.
            posterior_predictive: whether to draw data as well, one for each posterior draw.
            prior_draws: draws from the prior for each observation; 0 leaves the two groups out.
            resample: whether draws are to come from the exact posterior, as far as ``q`` allows, by importance resampling; see
                `Posterior.sample`.
            proposals: draws of ``q`` to resample from; by default ten for each draw, and 1,000 at least.
            seed: reproduces the draws and leaves the caller's random state as it was.

        Returns:
            `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.

        Raises:
            NotFittedError: the guide has not seen data yet.
            DataError: the observations cannot be used.
            OptionError: a number of draws is out of range.
            NonFiniteError: with ``resample``, a draw has a weight that is no number, or all of an observation have none.
        """
        count = positive_int("draws", draws)
        number = proposals_or_none(count, resample, proposals)
        prior = natural_int("prior_draws", prior_draws)
        posterior = self.posterior(x)
        attrs = {
            "inference_library": "amortvi",
            "inference_library_version": __version__,
            "posterior_family": posterior.label,
            "objective": self._objective_name,
        }
        if number is not None:
            attrs["resampled_from"] = f"{number} draws of the posterior family"
        with random_state(seed, self.device):
            return export.to_arviz(
                self._generative,
                self._guide.prototype,
                posterior,
                export.DrawCounts(count, posterior_predictive, prior, number),
                attrs,
            )

    def save(self, path: str | Path) -> None:
        """Save what was learned to a folder, which is made where it is missing.

        Args:
            path: the folder.

        Raises:
            NotFittedError: there is nothing to save yet.
        """
        if self._example is None:
            raise NotFittedError("there is nothing to save yet: call fit first.")
        dtype = str(self.dtype).removeprefix("torch.")
        content = checkpoint.Checkpoint(
            self._generative, self._guide, self._trainer, self._example, self._objective_name, dtype
        )
        # A callable that happens to be called "full" is not the family of that name.
        label = family_label(self.family)
        checkpoint.save(content, Path(path), label if isinstance(self.family, str) else f"{label}, a callable")

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
        """Load what `save` saved into a model and an encoder built as they were then.

        Args:
            path: the folder.
            model: the Pyro model; its parameters are overwritten.
            encoder: the encoder; its parameters are overwritten.
            family: needed where the family was given as a callable; by default the name that was saved.
            plate: the name of the data plate, where it was given then.

        Returns:
            The estimator, as it was when it was saved; a further `fit` goes on from there.

        Raises:
            CheckpointError: the folder cannot be read, or belongs to another model, encoder or family.
        """
        saved = checkpoint.read(Path(path))
        vi = cls(model, encoder, saved.family(family), plate=plate, freeze_model=saved.freeze_model)
        vi.to(dtype=saved.dtype)
        vi._example = saved.restore(vi._generative, vi._guide, vi._trainer)
        vi._objective_name = saved.objective
        return vi

    def _observations(self, x: Any) -> Observations:
        """Read ``x`` for a call after `fit`."""
        if self._example is None:
            raise NotFittedError("this AmortizedVI has not seen data yet: call fit first.")
        observations = as_observations(x, self.dtype, "x")
        observations.check_ordered()
        self._check_alike(observations.first(1), "x")
        return observations

    def _check_alike(self, batch: Batch, name: str) -> None:
        if self._example is not None:
            self._example.check_alike(batch, name, "the training data")


def _floating(dtype: Any) -> torch.dtype:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(f"dtype must be a floating type of torch, such as torch.float64; got {dtype!r}.")
    return dtype
