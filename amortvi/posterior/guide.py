"""The amortized guide: an inference network as a Pyro guide for any model."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

from amortvi._util.modes import evaluation_mode
from amortvi.data import Batch
from amortvi.errors import ModelError
from amortvi.families import Family, FamilyChoice, family_label, resolve_family
from amortvi.model import LatentVector, Model, check_row_independence
from amortvi.posterior.global_latents import GlobalGuideChoice, GlobalPosterior, PointMass, check_guide
from amortvi.posterior.labels import Classifier, LabelChoice, resolve_labels
from amortvi.posterior.moments import site_quantiles
from amortvi.posterior.network import InferenceNetwork

__all__ = ["AmortizedGuide"]


class AmortizedGuide(nn.Module):
    """The posterior ``q(theta) prod_i q(z_i | x_i)`` of all latents of a model, the local ones computed from the observation.

    The latents of one observation, whatever their number, shapes, nested plates and supports, form one unconstrained vector
    of size ``D``. The family gives its distribution, and each latent receives its part in its own shape and support. The
    latents outside the data plate, which all observations share, have an automatic guide of Pyro, independent of the others. The
    guide works with `pyro.infer.SVI` and `pyro.infer.Predictive`. Its parameters are those of an `nn.Module` and never enter
    Pyro's global param store.

    Args:
        model: a Pyro model with one plate over the observations, or a `Model`. Its parameters are not part of the guide.
        encoder: an `nn.Module` that is called with the model's arguments and returns the context, ``(B, C)``.
        family: a name (``"diagonal"``, ``"full"``, ``"low_rank"``, ``"flow"``), a family class, or a family with options such
            as ``LowRank(rank=5)``.
        plate: the name of the data plate, if several qualify.
        global_guide: makes the guide of the latents outside the data plate, if there are any: a class such as
            `pyro.infer.autoguide.AutoMultivariateNormal`, or a function from a model to such a guide; by default `AutoNormal`.
        labels: the argument of the model that holds labels, of which some are missing: its name, or `Labels` with options. The
            posterior of an observation is then a mixture with a component for each label. In plain Pyro, missing labels are
            discrete latents, which need `TraceEnum_ELBO`.

    Raises:
        EncoderError: the encoder is not an `nn.Module`.
        FamilyError: the family is unknown.
        OptionError: ``global_guide`` is neither a class nor a function, or ``labels`` is neither a name nor `Labels`.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", x.shape[0]):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> from amortvi.encoders import MLP
        >>> guide = AmortizedGuide(model, MLP(1, [8]), "diagonal")
        >>> guide(torch.zeros(5))["z"].shape
        torch.Size([5])
    """

    model: Model

    def __init__(
        self,
        model: Callable[..., Any] | Model,
        encoder: nn.Module,
        family: FamilyChoice = "diagonal",
        *,
        plate: str | None = None,
        global_guide: GlobalGuideChoice | None = None,
        labels: LabelChoice | None = None,
    ) -> None:
        super().__init__()
        # Not registered as a submodule: the parameters of the model are not the guide's.
        object.__setattr__(self, "model", model if isinstance(model, Model) else Model(model, plate=plate))
        chosen = resolve_labels(labels)
        classifier = None if chosen is None else Classifier(chosen)
        self.network = InferenceNetwork(encoder, resolve_family(family), family_label(family), classifier=classifier)
        self._global_guide = check_guide(global_guide)
        self._is_set_up = False

    @property
    def family(self) -> Family:
        """The posterior family."""
        return self.network.family

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation; raises `NotFittedError` before `setup`."""
        return self.model.latents

    def setup(self, *args: Any, **kwargs: Any) -> AmortizedGuide:
        """Read the structure of the model from an example and create the parameters of the family; later calls do nothing.

        Args:
            *args: the model's arguments, batch first.
            **kwargs: the model's keyword arguments, batch first.

        Raises:
            EncoderError: the encoder fails on the example, does not return a ``(B, C)`` context, or mixes the rows of a batch.
            ModelError: the model is not supported, mixes the rows of a batch, or has no global latents for ``global_guide``.
            OptionError: ``global_guide`` does not return an `AutoGuide`.
            FamilyError: the family cannot be built for this model.
        """
        if self._is_set_up:
            return self
        example = Batch(args, kwargs)
        # Hidden from a trace or plate in which the guide may be running.
        with poutine.block(), evaluation_mode(self.network.encoder, self.model):
            features = self.network.read(self.model, example)
            self.model.setup(example, features.of_latents.shape[0])
            self._setup_globals(example, features.of_latents)
            check_row_independence(self.model, example)
        self.network.setup(self.model, example, features)
        self._is_set_up = True
        return self

    def _setup_globals(self, example: Batch, like: Tensor) -> None:
        names = {site.name for site in self.model.structure.globals}
        if not names and self._global_guide is not None:
            raise ModelError(
                f"global_guide={self._global_guide!r} has no effect, because every latent of the model is in plate "
                f"{self.model.structure.plate!r}: omit it, or move the latents that all observations share out of the plate."
            )
        if names:
            with self.model.inference_mode():
                sites = [site for site in self.model.run(example, draw_globals=True) if site.name in names]
            self.network.global_posterior = GlobalPosterior(sites, self._global_guide).to(like)
        self.model.global_point = self.network.global_medians

    def get_posterior(self, *args: Any, **kwargs: Any) -> torch.distributions.Distribution:
        """Return the distribution of the unconstrained latent vector: batch shape ``(B,)``, event shape ``(D,)``."""
        self.setup(*args, **kwargs)
        posterior: torch.distributions.Distribution = self.network(Batch(args, kwargs))
        return posterior

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the posterior median of each element of each site, ``(B, *nested, *event)``."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    def quantiles(self, quantiles: Sequence[float], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return posterior quantiles of each element of each site, ``(len(quantiles), B, *nested, *event)``."""
        with torch.no_grad():
            return site_quantiles(self.latents, self.get_posterior(*args, **kwargs), quantiles)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run as a Pyro guide: sample every latent site of the model, and return their values in model layout."""
        self.setup(*args, **kwargs)
        self._announce_parameters()
        structure, context = self.model.structure, self.network.context(Batch(args, kwargs))
        observations = context.shape[0]
        shared = {} if self.network.global_posterior is None else self.network.global_posterior()
        posterior = self.family(context.reshape(observations, *(1,) * (-structure.dim - 1), -1))
        weight = 1.0 if structure.full_size is None else structure.full_size / observations
        # A plate would add a subsample site, which would be replayed into the model's plate; an IndepMessenger has none.
        with poutine.scale(scale=weight), IndepMessenger(structure.plate, observations, dim=structure.dim):
            vector = pyro.sample(f"_{structure.plate}_latent", _as_pyro(posterior), infer={"is_auxiliary": True})
            return {**shared, **self._emit_sites(vector, observations)}

    def _emit_sites(self, vector: Tensor, observations: int) -> dict[str, Tensor]:
        """Emit each site as a point mass at its part of ``vector``, with the density of the change of variables.

        ``vector`` is ``(*S, B, 1, ..., 1, D)`` with one singleton for each dimension to the right of the data plate.
        """
        latents = self.latents
        right = -self.model.structure.dim - 1
        sample_shape = vector.shape[: vector.dim() - right - 2]
        values, log_dets = latents.constrain(vector.reshape(*sample_shape, observations, latents.dim))
        emitted = {}
        for site in latents.sites:
            # Dimensions to the left of the site's own plates belong to plates that the caller has put around model and guide.
            outer = sample_shape[: max(0, len(sample_shape) + 1 + right - site.layout.batch_dims)]
            value = site.layout.to_model(values[site.name].reshape(*outer, observations, *site.shape), outer)
            density = value.new_zeros(value.shape[: value.dim() - site.layout.event_dim])
            if site.name in log_dets:
                log_det = log_dets[site.name].reshape(*outer, observations, *site.layout.nested_shape)
                density = -site.layout.to_model(log_det, outer)
            with contextlib.ExitStack() as plates:
                for nested in site.layout.nested:
                    plates.enter_context(IndepMessenger(nested.name, nested.size, dim=nested.dim))
                point = PointMass(  # type: ignore[no-untyped-call]  # Pyro's Delta is not annotated
                    value, log_density=density, event_dim=site.layout.event_dim
                )
                emitted[site.name] = pyro.sample(site.name, point)
        return emitted

    def _announce_parameters(self) -> None:
        """Pass the parameters to a running `pyro.infer.SVI` without the global param store."""
        for name, parameter in self.named_parameters():
            value = parameter.view_as(parameter)
            value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # read by SVI from a param site
            effectful(lambda value=value: value, type="param")(name=f"{id(self)}.{name}")


def _as_pyro(distribution: torch.distributions.Distribution) -> TorchDistribution:
    """Return ``distribution`` in a form that `pyro.sample` accepts."""
    if isinstance(distribution, TorchDistribution):
        return distribution
    # Imported here because it loads all of pyro.contrib, which takes a tenth of the time of importing Pyro.
    from pyro.contrib.zuko import ZukoToPyro

    return ZukoToPyro(distribution)
