"""The generative model ``p(x, z)``: a Pyro program together with its structure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyro
import torch
from torch import Tensor, nn

from amortvi._util.memory import Gathered
from amortvi._util.modes import evaluation_mode
from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import AmortviError, ModelError, NotFittedError, quoted
from amortvi.model.discrete import DiscreteSite, FactorGroup, complete_values, enumerated, factor_groups
from amortvi.model.global_sites import draw_spans
from amortvi.model.latents import LatentVector
from amortvi.model.program import Program
from amortvi.model.requirements import check_reached, check_support, without_value
from amortvi.model.site_log_probs import SiteLogProbs, log_jacobian, sum_sites
from amortvi.model.sites import Site, SiteReader
from amortvi.model.structure import ModelStructure, read_structure

__all__ = ["Model"]

Values: TypeAlias = Mapping[str, Tensor]
Run: TypeAlias = tuple[list[Site], list[FactorGroup]]
"""The sites of a run, and groups of those that depend on discrete latents."""


class Model(nn.Module):
    """The generative model ``p(x, z)``.

    `setup` reads its structure from an example. ``K`` draws of the latents are always processed as ``K`` copies of the batch,
    so every model that accepts a batch accepts them, including models with convolutions and reshapes.

    Global latents, theta, are sites outside the data plate, shared by all observations. A run of the model has one value of each:
    the one that is given as ``theta``, or else that of `global_point`. Discrete latents are summed out of every density.

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
        self.global_point: Callable[[], Values] = dict
        """Returns the global latents at which the model is evaluated unless others are given: the medians of their posterior."""
        self._given: Values | None = None
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
        return self.program(*args, **kwargs)

    @contextlib.contextmanager
    def inference_mode(self, theta: Values | None = None) -> Iterator[None]:
        """Use the model for anything but training.

        It runs in evaluation mode, without gradients, with its own parameters in Pyro's store, and without validation by the
        distributions, because `check_data` checks the data once instead of at every call.

        Args:
            theta: the global latents, ``(*shape)`` each; by default those of the context around this one, or of `global_point`.
        """
        with torch.no_grad(), evaluation_mode(self), pyro.validation_enabled(False), self.program.own_parameters():
            before, self._given = self._given, self._theta() if theta is None else theta
            try:
                yield
            finally:
                self._given = before

    def _theta(self) -> Values:
        return self.global_point() if self._given is None else self._given

    def run(
        self,
        batch: Batch,
        *,
        values: Values | None = None,
        draw_data: bool = False,
        draw_globals: bool = False,
        enumerate_discrete: bool = False,
        visit: Callable[[Site], None] | None = None,
    ) -> list[Site]:
        """Run the program once and return its sites, in order.

        Args:
            batch: ``B`` observations.
            values: values for sites by name, in model layout.
            draw_globals: whether global latents without a value are drawn from their prior.
            draw_data: whether the observed sites inside the data plate are drawn instead of observed.
            enumerate_discrete: whether discrete latents without a value take all their values at once, each in a dimension to
                the left of all plates; by default they are drawn from their prior.
            visit: called with each site as soon as it has its value.

        Raises:
            ModelError: the program fails, or its data plate does not have the size of the batch.
        """
        given = dict(values or {})
        if not draw_globals and any(site.name not in given for site in self.structure.globals):
            given = {**self._theta(), **given}
        reader = SiteReader(self.structure.plate, batch.size, values=given, draw_data=draw_data, visit=visit)
        names = {site.name for site in self.structure.discrete if enumerate_discrete} - given.keys()
        try:
            with reader, enumerated(names, self.structure.nesting):
                self.program(*batch.args, **batch.kwargs)
        except AmortviError:
            raise
        except Exception as error:  # the user's program can raise anything; the message says what it was called with
            hint = batch.hint() if isinstance(error, TypeError) else ""
            raise ModelError(f"the model failed on {batch.describe()}: {quoted(error)}{hint}") from error
        return reader.sites

    def log_probs(
        self,
        batch: Batch,
        values: Values,
        *,
        theta: Values | None = None,
        skip_priors: bool = False,
        complete: frozenset[str] = frozenset(),
    ) -> SiteLogProbs:
        """Return the log-probability of each site, given values of the latents.

        Args:
            batch: ``B`` observations.
            values: the latent sites in observation layout, ``(K, B, *shape)``.
            theta: the global latents, shared by all draws and observations, ``(*shape)`` each; by default `global_point`.
            skip_priors: whether to omit the latent sites in the data plate.
            complete: discrete latents that stand for missing data, of which this batch has none: their values do not matter.

        Raises:
            ModelError: the model fails, its data plate does not have the size of the batch, or its sites have changed.
        """
        draws, scored = next(iter(values.values())).shape[0], dict[str, Tensor]()
        copies = batch.arguments().repeat(draws)
        summed = [site for site in self.structure.discrete if site.name not in complete]

        def score(site: Site) -> None:
            # During the run, so that an error names the user's line; what depends on discrete latents is only known afterwards.
            if not summed and not (skip_priors and site.name in values):
                scored[site.name] = site.log_prob(self.structure.plate)

        sites, groups = self._run_enumerated(copies, values, theta or self._theta(), summed, score)
        return SiteLogProbs.read(sites, scored, groups, self.structure, draws, batch.size, skip_priors=skip_priors)

    def _run_enumerated(
        self,
        copies: Batch,
        values: Values,
        theta: Values,
        summed: Sequence[DiscreteSite],
        score: Callable[[Site], None] = lambda site: None,
    ) -> Run:
        anything = {site.name: site.first(copies.size) for site in self.structure.discrete if site not in summed}
        given = {**theta, **anything, **self.to_model_layout(values)}
        names = {*given, *(site.name for site in summed)}

        def check(site: Site) -> None:
            if site.is_latent and site.name not in names:
                raise without_value(site.name, is_global=site.name in {each.name for each in self.structure.globals})
            score(site)

        sites = self.run(copies, values=given, enumerate_discrete=True, visit=check)
        check_reached(names, sites)
        return sites, factor_groups(sites, summed, self.structure.plate, copies.size)

    def discrete_groups(self, batch: Batch, values: Values, *, theta: Values | None = None) -> Run:
        """Return a run on ``K`` copies of the batch, empty for a model without discrete latents; see `log_probs`."""
        if not self.structure.discrete:
            return [], []
        copies = batch.arguments().repeat(next(iter(values.values())).shape[0])
        return self._run_enumerated(copies, values, theta or self._theta(), self.structure.discrete)

    def with_discrete(self, batch: Batch, values: Values, *, theta: Values | None = None) -> dict[str, Tensor]:
        """Return all latents in the data plate, in model layout, discrete ones drawn from ``p(y | x, z)``; see `log_probs`."""
        sites, groups = self.discrete_groups(batch, values, theta=theta)
        drawn = {name: value for group in groups for name, value in group.draw().items()}
        return self.to_model_layout(values) | drawn | complete_values(sites, drawn)

    def to_model_layout(self, values: Values) -> dict[str, Tensor]:
        """Convert latents, each ``(K, B, *shape)``, to model layout for ``K * B`` observations."""
        return {site.name: site.layout.to_model(values[site.name].flatten(0, 1)) for site in self.latents.sites}

    def log_joint(self, batch: Batch, vector: Tensor) -> Tensor:
        """Return the log joint density of the data and of *unconstrained* latents, for each observation.

        It equals ``log p(x, T(u)) + log |det J_T(u)|``, up to a constant the log density of the exact posterior. Discrete
        latents are summed out. Sites outside the data plate are omitted; global latents are those of `global_point`.

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
        self,
        batch: Batch,
        values: Values | None,
        draws: int,
        *,
        theta: Values | None = None,
        draws_at_once: int | None = None,
    ) -> dict[str, Tensor]:
        """Draw the observed sites from the model, inside `inference_mode`.

        Args:
            batch: ``B`` observations, for sizes and covariates.
            values: the continuous latents, ``(K, B, *shape)``; discrete ones are then drawn from ``p(y | x, z)``, and known
                classes kept. ``None`` draws all latents from the prior.
            draws: ``K``, the number of draws for each observation.
            theta: the global latents of each draw, ``(K, *shape)``; by default those of `global_point` for all draws.
            draws_at_once: the number of draws processed together; all of them by default.

        Returns:
            The observed and deterministic sites in the data plate and, if they were drawn, the latents: each
            ``(K, B, *nested, *event)``, on the CPU.
        """
        plate, gathered = self.structure.plate, Gathered(draws)
        for span, shared in draw_spans(theta, draws, draws_at_once or draws):
            copies = batch.arguments().repeat(len(span))
            part = {name: value[span.start : span.stop] for name, value in (values or {}).items()}
            given, drawn = self.with_discrete(batch, part, theta=shared) if part else {}, {}
            for site in self.run(copies, values={**(shared or {}), **given}, draw_data=True):
                value = site.by_observation(site.value, plate, copies.size)
                if value is not None and (site.name not in given or site.is_deterministic):
                    drawn[site.name] = value.unflatten(0, (len(span), batch.size))
            gathered.add(drawn)
        return gathered.result()

    def check_data(self, batch: Batch) -> None:
        """Raise `DataError` if an observed value of ``batch`` is outside the support of its distribution.

        Distributions with ``validate_args=False`` are not checked. The model runs once, with latents from the prior, because
        validation at each call would cost a third of a training step; ``batch`` must be on its device.
        """

        def check(site: Site) -> None:
            if site.is_data and site.name not in self.structure.unvalidated:
                check_support(site)

        with self.inference_mode(), random_state(0, batch.device):
            self.run(batch, visit=check)
