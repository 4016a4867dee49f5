"""The sample sites of one run of a Pyro model, and the one handler that reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution, Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent

from amortvi.errors import ModelError
from amortvi.model.plates import NestedPlate, PlateLayout
from amortvi.model.supports import has_tensor_bounds, support_of

__all__ = ["Site", "SiteReader", "distribution_layers", "distribution_parts", "plate_frames"]


@dataclass(frozen=True)
class Site:
    """A sample statement in one run of the model; ``message`` is Pyro's, from a handler or a trace."""

    message: Any

    @property
    def name(self) -> str:
        """The name of the site."""
        return self.message["name"]

    @property
    def distribution(self) -> Any:
        """The distribution of the site."""
        return self.message["fn"]

    @property
    def base_distribution(self) -> Any:
        """The distribution inside ``to_event``, ``expand`` and ``mask``."""
        return distribution_layers(self.distribution)[-1]

    @property
    def support(self) -> Any:
        """The support; raises `ModelError` if it is unknown."""
        return support_of(self.name, self.distribution)

    @property
    def value(self) -> Tensor:
        """The value, in model layout."""
        return self.message["value"]

    @property
    def is_subsample(self) -> bool:
        """Whether the site is not part of the model but the selection of rows by a plate."""
        return type(self.distribution).__name__ == "_Subsample"

    @property
    def is_deterministic(self) -> bool:
        """Whether the site is a ``pyro.deterministic``."""
        return bool(self.message["infer"].get("_deterministic"))

    @property
    def is_factor(self) -> bool:
        """Whether the site is a ``pyro.factor``."""
        return isinstance(self.distribution, Unit)

    @property
    def is_latent(self) -> bool:
        """Whether the value is drawn, not observed."""
        return not self.message["is_observed"]

    @property
    def is_discrete(self) -> bool:
        """Whether the support is discrete."""
        return bool(self.distribution.support.is_discrete)

    @property
    def is_data(self) -> bool:
        """Whether the value is observed: not latent, deterministic or a factor."""
        return not self.is_latent and not self.is_deterministic and not self.is_factor

    @property
    def is_validated(self) -> bool:
        """Whether the distribution checks its values; ``False`` inside ``pyro.validation_enabled(False)``."""
        return bool(self.base_distribution._validate_args)

    @property
    def plates(self) -> tuple[Any, ...]:
        """The frames of the vectorized plates around the site, outermost first."""
        return tuple(frame for frame in self.message["cond_indep_stack"] if frame.vectorized)

    def frame(self, plate: str) -> Any | None:
        """Return the frame of ``plate``, or ``None`` if the site is outside it."""
        return next((frame for frame in self.message["cond_indep_stack"] if frame.name == plate), None)

    def layout(self, plate: str) -> PlateLayout:
        """Return the layout of the site, which must be inside ``plate``."""
        frames = self.plates
        dim = next(frame.dim for frame in frames if frame.name == plate)
        nested = tuple(NestedPlate(f.name, f.dim, f.size) for f in frames if f.name != plate)
        return PlateLayout(dim, nested, self.distribution.event_dim)

    @property
    def layout_is_unknown(self) -> bool:
        """Whether batch and event dimensions cannot be told apart: a ``pyro.deterministic`` without ``event_dim``."""
        return self.is_deterministic and self.distribution.event_dim >= self.value.dim()

    def own_scale(self, plate: str) -> Any:
        """Return the scale of the site without that of the data plate.

        A subsampled plate scales a batch up to the full data; this factor does not apply to single observations.
        """
        frame = self.frame(plate)
        if frame is not None and frame.full_size != frame.size:
            return self.message["scale"] * frame.size / frame.full_size
        return self.message["scale"]

    def is_weighted(self, plate: str) -> bool:
        """Whether the log-probability is masked or scaled, apart from the scale of a subsampled data plate."""
        scale = self.own_scale(plate)
        return self.message["mask"] is not None or isinstance(scale, Tensor) or not math.isclose(scale, 1.0)

    @property
    def scored_value(self) -> Tensor:
        """The value, in which masked entries of a distribution with finitely many values are replaced by one of these.

        Data mark a missing value by one that the distribution does not have, such as -1 for an unknown class.
        """
        mask, distribution = self.message["mask"], self.distribution
        if not (self.is_data and isinstance(mask, Tensor) and distribution.has_enumerate_support):
            return self.value
        if has_tensor_bounds(distribution.support):  # the values of a Binomial may differ between observations
            return self.value
        entries = mask.reshape(mask.shape + (1,) * distribution.event_dim)
        return torch.where(entries, self.value, distribution.enumerate_support(expand=False)[0].to(self.value))

    def log_prob(self, plate: str | None = None) -> Tensor:
        """Return the log-probability of the value, in model layout.

        Given the data plate, masks and the site's own scale are applied; ``None`` returns that of the distribution alone.
        """
        log_prob = self.distribution.log_prob(self.scored_value, *self.message["args"], **self.message["kwargs"])
        if plate is None:
            return log_prob
        return scale_and_mask(log_prob, self.own_scale(plate), self.message["mask"])

    def by_observation(self, value: Tensor, plate: str, observations: int) -> Tensor | None:
        """Convert ``value``, shaped like the site's own value, from model layout to observation layout.

        Returns:
            ``(B, *nested, *event)`` for a run on ``B`` observations, or ``None`` for a site outside the data plate or without
            a value for each observation.
        """
        if self.frame(plate) is None or self.is_subsample or value.numel() == 0:  # a pyro.factor has an empty value
            return None
        if self.layout_is_unknown:
            # Taken to have observations in the first dimension wherever its size allows it.
            first = value if value.dim() else value.unsqueeze(0)
            return first.expand(observations, *first.shape[1:]) if first.shape[0] in (1, observations) else None
        layout = self.layout(plate)
        value = layout.to_observations(value)
        # Values that Pyro would broadcast over a plate, such as obs= without its dimension, are written out.
        return value.expand(observations, *layout.nested_shape, *value.shape[1 + len(layout.nested) :])

    def observed_entries(self, plate: str, like: Tensor) -> Tensor | None:
        """Return a boolean tensor that marks the entries that are not masked, or ``None`` if nothing is masked.

        Args:
            plate: the data plate; the site must be inside it.
            like: the value in observation layout, ``(B, *nested, *event)``, whose shape is that of the result.
        """
        layout, batch_dims = self.layout(plate), len(self.distribution.batch_shape)
        masks = [(self.message["mask"], self.distribution.batch_shape)]
        masks += [
            (part._mask, part.batch_shape)
            for part in distribution_layers(self.distribution)
            if isinstance(part, MaskedDistribution)
        ]
        observed: Tensor | None = None
        for mask, shape in masks:
            if mask is None or mask is True:
                continue
            full = torch.as_tensor(mask, device=like.device).expand(shape)
            # A mask inside to_event has some of the event dimensions.
            entries = PlateLayout(layout.dim, layout.nested, len(shape) - batch_dims).to_observations(full)
            entries = entries.reshape(entries.shape + (1,) * (like.dim() - entries.dim())).expand_as(like)
            observed = entries if observed is None else observed & entries
        return observed


def distribution_layers(distribution: Any) -> list[Any]:
    """Return a distribution and the ones it wraps, down to the one with the density."""
    layers = [distribution]
    while isinstance(layers[-1], Independent | ExpandedDistribution | MaskedDistribution):
        layers.append(layers[-1].base_dist)
    return layers


def distribution_parts(distribution: Any) -> list[Any]:
    """Return a distribution and all of which it is made: what it wraps, transforms or mixes."""
    names = ("base_dist", "component_distribution", "component0", "component1")
    inside = [getattr(distribution, name) for name in names if hasattr(distribution, name)]
    return [distribution, *(part for each in inside for part in distribution_parts(each))]


def plate_frames(sites: Iterable[Site]) -> dict[str, Any]:
    """Return the frames of all plates around ``sites`` by name, including those of Python loops."""
    return {frame.name: frame for site in sites for frame in site.message["cond_indep_stack"]}


class SiteReader(Messenger):
    """Collects the sample sites of one run of a model, in order; optionally sets latents and draws data.

    Args:
        plate: the data plate, or ``None`` while it is unknown.
        observations: the number of observations in the run; a data plate of another size raises `ModelError`.
        values: values for latent sites by name, in model layout.
        draw_data: whether the observed sites inside the data plate are drawn instead of observed.
        visit: called with each site as soon as it has its value.
    """

    def __init__(
        self,
        plate: str | None = None,
        observations: int | None = None,
        *,
        values: Mapping[str, Tensor] | None = None,
        draw_data: bool = False,
        visit: Callable[[Site], None] | None = None,
    ) -> None:
        super().__init__()
        self.plate = plate
        self.observations = observations
        self.sites: list[Site] = []
        self.random_plates: list[str] = []
        """Plates that subsample at random."""
        self._values = values or {}
        self._draw_data = draw_data
        self._visit = visit

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def _pyro_sample(self, msg: Any) -> None:
        site = Site(msg)
        if site.is_subsample:
            size = site.distribution.subsample_size
            if msg["value"] is None and size is not None and size < site.distribution.size:
                self.random_plates.append(site.name)
        # Checked before anything is computed: otherwise a plate of another size causes one of many errors, or none.
        inside = self.plate is not None and self._check_size(site.frame(self.plate))
        value = self._values.get(site.name)
        if value is not None:
            msg["value"], msg["done"] = value, True
        elif self._draw_data and inside and msg["is_observed"] and not site.is_deterministic:
            msg["value"], msg["is_observed"], msg["done"] = None, False, False

    def _pyro_post_sample(self, msg: Any) -> None:
        site = Site(msg)
        if not site.is_subsample:
            self.sites.append(site)
            if self._visit is not None:
                self._visit(site)

    def _check_size(self, frame: Any | None) -> bool:
        if frame is not None and frame.size != self.observations:
            raise ModelError(
                f"plate {self.plate!r} has size {frame.size}, but the model must accept batches of any size, here "
                f"{self.observations} observations: write pyro.plate({self.plate!r}, x.shape[0]) or "
                f"pyro.plate({self.plate!r}, N, subsample=x)."
            )
        return frame is not None
