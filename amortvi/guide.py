"""The amortized guide: an encoder and a posterior family in the shape of any Pyro model."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Distribution, TorchDistribution
from pyro.nn import PyroModule
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import register_kl

from amortvi._modes import evaluation_mode
from amortvi.errors import AmortviError, EncoderError, FamilyError, NotFittedError, quoted
from amortvi.families import Family, FamilyChoice, make_family
from amortvi.families import resolve as resolve_family
from amortvi.latents import LatentVector
from amortvi.marginals import site_quantiles
from amortvi.observations import Batch
from amortvi.prototype import Prototype, read_model

__all__ = ["AmortizedGuide"]


class PointMass(Delta):
    """A transformed latent as `pyro.sample` emits it: a point whose density is that of the change of variables."""


def _kl_point_mass(q: PointMass, p: Distribution) -> Tensor:
    # The rule that Pyro has for Delta forgets the density, and with it the Jacobian, in TraceMeanField_ELBO.
    log_density: Tensor = q.log_density
    return log_density - p.log_prob(q.v)


register_kl(PointMass, Distribution)(_kl_point_mass)


class AmortizedGuide(PyroModule):
    """Posterior ``q(z | x)`` of every latent in the model's data plate, read off the observation by an encoder.

    The latents of one observation, whatever their number, shapes, nested plates and supports, are one unconstrained
    vector of size ``D``; the family gives its distribution, and each latent gets its part back in its own shape and
    support. It works as the guide of a plain `pyro.infer.SVI` and of `pyro.infer.Predictive`. Its parameters are those
    of an `nn.Module`, never in Pyro's global param store.

    Args:
        model: a Pyro model with one plate over the observations.
        encoder: an `nn.Module` called with the model's arguments that returns the context, ``(B, C)``.
        family: a name (``"diagonal"``, ``"full"``, ``"low_rank"``) or a callable ``(dim, context_features) -> Family``.
        plate: the name of the data plate, where the model has several that could be it.

    Raises:
        EncoderError: the encoder is not an `nn.Module`.
        FamilyError: the family is unknown.

    Example:
        >>> import pyro, torch
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

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: nn.Module,
        family: FamilyChoice = "diagonal",
        *,
        plate: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            got = f"the class {encoder.__name__}" if isinstance(encoder, type) else type(encoder).__name__
            raise EncoderError(
                f"encoder must be an nn.Module, such as encoders.MLP or a module of your own whose forward takes the model's "
                f"arguments; got {got}."
            )
        resolve_family(family)
        # The model is only looked at: registered as a submodule its parameters would count as the guide's.
        self.__dict__["model"] = model
        self.encoder = encoder
        self._encoder_is_pyro = any(isinstance(part, PyroModule) for part in encoder.modules())
        self.family_choice = family
        self.plate = plate
        self._prototype: Prototype | None = None

    @property
    def is_set_up(self) -> bool:
        """Whether the guide has seen an example, and so has all its parameters."""
        return self._prototype is not None

    @property
    def prototype(self) -> Prototype:
        """The structure of the model.

        Raises:
            NotFittedError: the guide has not seen an example.
        """
        if self._prototype is None:
            raise NotFittedError("the guide has not seen data yet: call it, or fit, with some observations first.")
        return self._prototype

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation."""
        return self.prototype.latents

    @property
    def family(self) -> Family:
        """The posterior family, made at the first example."""
        if "family_module" not in self._modules:
            raise NotFittedError("the family is made when the guide first sees data: call it, or fit, first.")
        # Read without PyroModule's attribute access, which would register the module in the global param store.
        family = self._modules["family_module"]
        assert isinstance(family, Family)
        return family

    def setup(self, *args: Any, **kwargs: Any) -> AmortizedGuide:
        """Read the model's structure off an example and make the family's parameters; later calls do nothing.

        Args:
            *args: the model's arguments, batch first.
            **kwargs: the model's keyword arguments, batch first.

        Raises:
            EncoderError: the encoder fails on the example or returns no ``(B, C)`` context.
            ModelError: the model is outside what amortized inference can take.
            FamilyError: the family cannot be made for this dimension.
        """
        if self.is_set_up:
            return self
        example = Batch(args, kwargs)
        encoder = self._modules["encoder"]
        assert encoder is not None
        model = self.__dict__["model"]
        modules = [module for module in (encoder, model) if isinstance(module, nn.Module)]
        # The example is looked at apart from whatever trace or plate the guide is being called in.
        with poutine.block(), evaluation_mode(*modules):
            with torch.no_grad():
                context = self.context(*args, **kwargs)
            prototype = read_model(model, example, context.shape[0], self.plate)
        family = make_family(self.family_choice, prototype.latents.dim, context.shape[1])
        if family.dim != prototype.latents.dim:
            raise FamilyError(
                f"family={self.family_choice!r} must be made for the dimension that it is called with: the latents have "
                f"{prototype.latents.dim} dimensions, the family has {family.dim}."
            )
        self.add_module("family_module", family.to(context))
        self._prototype = prototype
        return self

    def context(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the encoder's answer, ``(B, C)``.

        Raises:
            EncoderError: the encoder fails, or returns something other than a floating tensor ``(B, C)``.
        """
        encoder = self._modules["encoder"]
        assert encoder is not None
        # The parameters of a PyroModule in it are the guide's already: they are not to be statements of a trace.
        with _own_pyro_scope() if self._encoder_is_pyro else contextlib.nullcontext():
            return self._checked_context(encoder, args, kwargs)

    def _checked_context(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        try:
            context = encoder(*args, **kwargs)
        except AmortviError:
            raise
        except Exception as error:
            # Whatever the user's network raises, the user wants to know what it was called with.
            batch = Batch(args, kwargs)
            raise EncoderError(
                f"the encoder {type(encoder).__name__} failed on {batch.describe()}: {quoted(error)}{batch.hint()}"
            ) from error
        rows = next((value.shape[0] for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if not isinstance(context, Tensor) or context.dim() != 2 or not context.is_floating_point():
            got = (
                f"{tuple(context.shape)} of {context.dtype}" if isinstance(context, Tensor) else type(context).__name__
            )
            raise EncoderError(
                f"the encoder must return a floating context of shape (observations, features); got {got}. End it with "
                f"nn.Flatten() where it has more dimensions, and return one tensor."
            )
        if context.shape[1] == 0:
            raise EncoderError(f"the encoder must return at least one feature; got shape {tuple(context.shape)}.")
        if context.shape[0] != rows:
            raise EncoderError(
                f"the encoder must return one row an observation: it got {rows} observations and returned a context of "
                f"shape {tuple(context.shape)}."
            )
        return context

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """Return the distribution of the unconstrained latent vector: batch shape ``(B,)``, event shape ``(D,)``."""
        self.setup(*args, **kwargs)
        return self.family(self.context(*args, **kwargs))

    def parameters_of(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the parameters that the family's head gives each observation, ``(B, P)``."""
        self.setup(*args, **kwargs)
        parameters: Tensor = self.family.head(self.context(*args, **kwargs))
        return parameters

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run as a Pyro guide: sample every latent site of the model.

        Returns:
            The values of the sites, in the layout that the model gives them.
        """
        self.setup(*args, **kwargs)
        self._register_parameters()
        prototype = self.prototype
        context = self.context(*args, **kwargs)
        observations = context.shape[0]
        posterior = self.family(context.reshape(observations, *(1,) * (-prototype.dim - 1), -1))
        weight = 1.0 if prototype.full_size is None else prototype.full_size / observations
        # A bare IndepMessenger, unlike a plate, has no subsample site that would be replayed into the model's plate.
        with (
            poutine.scale(scale=weight),
            IndepMessenger(prototype.plate, observations, dim=prototype.dim),
        ):
            vector = pyro.sample(f"_{prototype.plate}_latent", as_pyro(posterior), infer={"is_auxiliary": True})
            return self._sample_sites(vector, observations)

    def _sample_sites(self, vector: Tensor, observations: int) -> dict[str, Tensor]:
        """Emit each site as a point mass at its part of ``vector``, with the density of the change of variables.

        ``vector`` is ``(*S, B, 1, ..., 1, D)`` with as many ones as there are dimensions right of the data plate.
        """
        latents = self.latents
        behind = -self.prototype.dim - 1
        sample_shape = vector.shape[: vector.dim() - behind - 2]
        values, log_dets = latents.constrain(vector.reshape(*sample_shape, observations, latents.dim))
        emitted = {}
        for site in latents.sites:
            # What is left of the site's own plates: plates that the caller has put around model and guide.
            outer = sample_shape[: max(0, len(sample_shape) + 1 + behind - site.layout.batch_dims)]
            value = site.layout.to_model(values[site.name].reshape(*outer, observations, *site.shape), outer)
            density = value.new_zeros(value.shape[: value.dim() - site.layout.event_dim])
            if site.name in log_dets:
                log_det = log_dets[site.name].reshape(*outer, observations, *site.layout.nested_shape)
                density = -site.layout.to_model(log_det, outer)
            with contextlib.ExitStack() as plates:
                for nested in site.layout.nested:
                    plates.enter_context(IndepMessenger(nested.name, nested.size, dim=nested.dim))
                # Pyro's Delta has no annotations.
                point = PointMass(  # type: ignore[no-untyped-call]
                    value, log_density=density, event_dim=site.layout.event_dim
                )
                emitted[site.name] = pyro.sample(site.name, point)
        return emitted

    def _register_parameters(self) -> None:
        """Tell a running `pyro.infer.SVI` of the parameters, without the global param store."""
        for name, parameter in self.named_parameters():
            value = parameter.view_as(parameter)
            value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # what SVI reads off a param site
            effectful(lambda value=value: value, type="param")(name=f"{id(self)}.{name}")

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the posterior median of each site, ``(B, *nested, *event)``, coordinate by coordinate."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    def quantiles(self, quantiles: Sequence[float], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return posterior quantiles of each site, ``(len(quantiles), B, *nested, *event)``."""
        with torch.no_grad():
            return site_quantiles(self.latents, self.family, self.get_posterior(*args, **kwargs), quantiles)


@contextlib.contextmanager
def _own_pyro_scope() -> Iterator[None]:
    """Keep Pyro statements from the global param store and from the handlers around."""
    with pyro.get_param_store().scope(), poutine.block():
        yield


def as_pyro(distribution: torch.distributions.Distribution) -> TorchDistribution:
    """Return ``distribution`` as one that `pyro.sample` takes."""
    if isinstance(distribution, TorchDistribution):
        return distribution
    # Imported where it is used: it brings all of pyro.contrib, a tenth of the time that importing Pyro takes.
    from pyro.contrib.zuko import ZukoToPyro

    return ZukoToPyro(distribution)
