"""The generative model ``p(x, z)``: a Pyro program together with its structure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from amortvi._util.memory import Gathered, spans
from amortvi._util.modes import evaluation_mode
from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import AmortviError, ModelError, NotFittedError, quoted
from amortvi.model.latents import LatentVector, sum_from
from amortvi.model.program import Program
from amortvi.model.requirements import check_support
from amortvi.model.sites import Site, SiteReader
from amortvi.model.structure import ModelStructure, read_structure

__all__ = ["Model", "SiteLogProbs", "log_jacobian", "sum_per_observation", "sum_sites"]

_FIXED_SITES = (
    "a site must not appear or disappear depending on the data: always sample it, and exclude what does not count with "
    "pyro.poutine.mask around the observed site."
)


@dataclass(frozen=True)
class SiteLogProbs:
    """Log-probabilities of the sites in one run of the model.

    They are *unscaled*: the factor of a subsampled plate belongs to sums over the data, not to an observation.

    Args:
        local: for each site inside the data plate, ``(K, B)``.
        global_log_prob: the sum over all sites outside the data plate, a scalar.
        sites: the sites of the run, on ``K * B`` observations.
    """

    local: Mapping[str, Tensor]
    global_log_prob: Tensor
    sites: Sequence[Site]


class Model(nn.Module):
    """The generative model ``p(x, z)``.

    `setup` reads its structure from an example. ``K`` draws of the latents are always processed as ``K`` copies of the batch,
    so every model that accepts a batch accepts them, including models with convolutions and reshapes.

    Args:
        program: a Pyro model, or a `Program` whose parameters are shared.
        plate: the name of the data plate, if several qualify.

    Raises:
        ModelError: ``program`` is not callable.

    Example:
        >>> import torch
        >>> from amortvi.model.library import LinearGaussian
        >>> model, batch = Model(LinearGaussian(torch.eye(2), scale=1.0)), Batch((torch.zeros(5, 2),))
        >>> model.setup(batch, observations=5).latents.labels
        ['z[0]', 'z[1]']
        >>> model.log_joint(batch, torch.zeros(3, 5, 2)).shape
        torch.Size([3, 5])
    """

    def __init__(self, program: Callable[..., Any], *, plate: str | None = None) -> None:
        super().__init__()
        self.program = program if isinstance(program, Program) else Program(program)
        self.plate = plate
        self._structure: ModelStructure | None = None

    def setup(self, example: Batch, observations: int) -> Model:
        """Read the structure of the model from an example; later calls do nothing.

        Args:
            example: the arguments of the call.
            observations: the number of observations in the example.

        Raises:
            ModelError: the model fails or is not supported.
            DataError: a value is outside the support of the likelihood.
        """
        if self._structure is None:
            self._structure = read_structure(self.program, example, observations, self.plate)
        return self

    @property
    def structure(self) -> ModelStructure:
        """The data plate and the latents.

        Raises:
            NotFittedError: the model has not seen an example.
        """
        if self._structure is None:
            raise NotFittedError("the structure of the model is read from data: call fit or setup first.")
        return self._structure

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation."""
        return self.structure.latents

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return self.program(*args, **kwargs)

    @contextlib.contextmanager
    def inference_mode(self) -> Iterator[None]:
        """Use the model for anything but training.

        It runs in evaluation mode, without gradients, with its own parameters in Pyro's store, and without validation by the
        distributions, because `check_data` checks the data once instead of at every call.
        """
        with torch.no_grad(), evaluation_mode(self), pyro.validation_enabled(False), self.program.own_parameters():
            yield

    def run(
        self,
        batch: Batch,
        *,
        values: Mapping[str, Tensor] | None = None,
        draw_data: bool = False,
        visit: Callable[[Site], None] | None = None,
    ) -> list[Site]:
        """Run the program once and return its sites, in order.

        Args:
            batch: ``B`` observations.
            values: values for sites by name, in model layout.
            draw_data: whether the observed sites inside the data plate are drawn instead of observed.
            visit: called with each site as soon as it has its value.

        Raises:
            ModelError: the program fails, or its data plate does not have the size of the batch.
        """
        reader = SiteReader(self.structure.plate, batch.size, values=values, draw_data=draw_data, visit=visit)
        try:
            with reader:
                self.program(*batch.args, **batch.kwargs)
        except AmortviError:
            raise
        except Exception as error:  # the user's program can raise anything; the message says what it was called with
            hint = batch.hint() if isinstance(error, TypeError) else ""
            raise ModelError(f"the model failed on {batch.describe()}: {quoted(error)}{hint}") from error
        return reader.sites

    def log_probs(self, batch: Batch, values: Mapping[str, Tensor], *, skip_priors: bool = False) -> SiteLogProbs:
        """Return the log-probability of each site, given values of the latents.

        Args:
            batch: ``B`` observations.
            values: the latent sites in observation layout, ``(K, B, *shape)``.
            skip_priors: whether to omit the latent sites.

        Raises:
            ModelError: the model fails, its data plate does not have the size of the batch, or its sites have changed.
        """
        draws = next(iter(values.values())).shape[0]
        copies = batch.arguments().repeat(draws)
        local: dict[str, Tensor] = {}
        total = torch.zeros(())

        def score(site: Site) -> None:
            nonlocal total
            is_latent = site.name in values
            if not is_latent and site.is_latent:
                raise ModelError(f"latent site {site.name!r} was not in the model at setup: {_FIXED_SITES}")
            if is_latent and skip_priors:
                return
            log_prob, frame = site.log_prob(self.structure.plate), site.frame(self.structure.plate)
            if frame is None:
                total = total + log_prob.sum()
            else:
                local[site.name] = sum_per_observation(log_prob, frame.dim, copies.size).reshape(draws, batch.size)

        sites = self.run(copies, values=self.to_model_layout(values), visit=score)
        missing = self.latents.names - {site.name for site in sites}
        if missing:
            raise ModelError(f"the model did not reach its latent sites {sorted(missing)} this time: {_FIXED_SITES}")
        if not local.keys() - self.latents.names:
            raise ModelError(f"the model observed nothing in plate {self.structure.plate!r} this time: {_FIXED_SITES}")
        return SiteLogProbs(local, total, sites)

    def to_model_layout(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert latents, each ``(K, B, *shape)``, to model layout for ``K * B`` observations."""
        return {site.name: site.layout.to_model(values[site.name].flatten(0, 1)) for site in self.latents.sites}

    def log_joint(self, batch: Batch, vector: Tensor) -> Tensor:
        """Return the log joint density of the data and of *unconstrained* latents, for each observation.

        It equals ``log p(x, T(u)) + log |det J_T(u)|``, up to a constant the log density of the exact posterior of the vector
        ``u``, for which the families are distributions. Sites outside the data plate are omitted.

        Args:
            batch: ``B`` observations.
            vector: unconstrained latents, ``(K, B, D)``.

        Returns:
            ``(K, B)``, in nats.

        Raises:
            ModelError: the model fails, or its data plate does not have the size of the batch.
        """
        values, log_dets = self.latents.constrain(vector)
        log_joint = sum_sites(self.log_probs(batch, values).local)
        return log_joint + log_jacobian(log_dets, log_joint)

    def simulate(
        self, batch: Batch, values: Mapping[str, Tensor] | None, draws: int, *, draws_at_once: int | None = None
    ) -> dict[str, Tensor]:
        """Draw the observed sites from the model, inside `inference_mode`.

        Args:
            batch: ``B`` observations, for sizes and covariates.
            values: the latents in observation layout, ``(K, B, *shape)``; ``None`` draws them from the prior.
            draws: ``K``, the number of draws for each observation.
            draws_at_once: the number of draws processed together; all of them by default.

        Returns:
            The observed and deterministic sites in the data plate and, if they were drawn, the latents: each
            ``(K, B, *nested, *event)``, on the CPU.
        """
        plate, gathered = self.structure.plate, Gathered(draws)
        for span in spans(draws, draws_at_once or draws):
            copies = batch.arguments().repeat(len(span))
            part = {name: value[span.start : span.stop] for name, value in (values or {}).items()}
            given, drawn = self.to_model_layout(part) if part else {}, {}
            for site in self.run(copies, values=given, draw_data=True):
                value = site.by_observation(site.value, plate, copies.size)
                if value is not None and site.name not in given:
                    drawn[site.name] = value.unflatten(0, (len(span), batch.size))
            gathered.add(drawn)
        return gathered.result()

    def check_data(self, batch: Batch) -> None:
        """Raise `DataError` if an observed value of ``batch`` is outside the support of its distribution.

        Distributions with ``validate_args=False`` are not checked.
        The model runs once, with latents drawn from the prior; ``batch`` must be on its device. Validation by the
        distributions at each call would cost a third of a training step; without any check, a density outside its support may
        be an arbitrary number.
        """

        def check(site: Site) -> None:
            if site.is_data and site.name not in self.structure.unvalidated:
                check_support(site)

        with self.inference_mode(), random_state(0, batch.device):
            self.run(batch, visit=check)

    def check_predicts(self) -> None:
        """Raise `ModelError` if the model has neither an observed nor a deterministic site of which values can be drawn."""
        if not self.structure.predicted:
            raise ModelError(
                f"there is nothing to predict, because no pyro.sample in plate {self.structure.plate!r} has obs=: a pyro.factor "
                f"contributes to the density but draws no data. Write the likelihood as a distribution, with pyro.sample(..., "
                f"obs=x), to predict from it."
            )


def sum_sites(terms: Mapping[str, Tensor]) -> Tensor:
    """Add the terms of all sites."""
    return reduce(torch.add, terms.values())


def sum_per_observation(log_prob: Tensor, dim: int, observations: int) -> Tensor:
    """Sum a log-probability in model layout over all dimensions except ``dim``, the data plate: ``(observations,)``."""
    if log_prob.dim() < -dim:
        return log_prob.sum().expand(observations)
    if log_prob.dim() > 1:
        log_prob = log_prob.movedim(dim, 0).flatten(1).sum(-1)
    return log_prob.expand(observations)


def log_jacobian(log_dets: Mapping[str, Tensor], like: Tensor) -> Tensor | float:
    """Add ``log |det J|`` of the transforms of all sites, shaped like ``like``, ``(*S, B)``; 0 if there are none."""
    return sum((sum_from(log_det, like.dim()) for log_det in log_dets.values()), start=0.0)
