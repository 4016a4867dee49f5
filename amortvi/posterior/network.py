"""The inference network: an encoder and a posterior family, which together map an observation to ``q(z | x)``."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from amortvi._util.lock import exclusive
from amortvi._util.random import drawn_alike
from amortvi.data import Batch, Observations
from amortvi.encoders.standardization import Standardization
from amortvi.errors import AmortviError, EncoderError, NonFiniteError, quoted
from amortvi.families import Family, GivenLabel
from amortvi.model import HOW_TO_SEPARATE_ROWS, Model, find_mixed_row
from amortvi.posterior.global_latents import GlobalDraw, GlobalPosterior, private_pyro_scope
from amortvi.posterior.labels import Classifier

__all__ = ["InferenceNetwork"]


class Features(NamedTuple):
    """What networks have found in each observation of a batch.

    Args:
        of_latents: the output of the encoder, ``(B, C)``.
        of_labels: that of the network of the classifier, ``(B, C')``, or of the encoder if there is no other.
    """

    of_latents: Tensor
    of_labels: Tensor


class InferenceNetwork(nn.Module):
    """The map ``x -> context -> q(z | x)``, the only way in which posteriors are computed, and the posterior of global latents.

    Args:
        encoder: called with the model's arguments, except labels; returns features, ``(B, C)``.
        family: maps the context to the posteriors. The context consists of the features and, with labels, of ``log q(y | x)``.
        label: the name under which tables list the family.
        global_posterior: the posterior ``q(theta)`` of the latents outside the data plate, if there are any.
        classifier: the posterior ``q(y | x)`` of labels, of which some are missing.

    Raises:
        EncoderError: the encoder is not an `nn.Module`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        family: Family,
        label: str,
        global_posterior: GlobalPosterior | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            got = f"the class {encoder.__name__}" if isinstance(encoder, type) else type(encoder).__name__
            raise EncoderError(
                f"encoder must be an nn.Module, such as encoders.MLP or a module of your own whose forward accepts the model's "
                f"arguments; got {got}."
            )
        self.encoder = encoder
        self.standardization = Standardization()
        self.family = family
        self.label = label
        self.global_posterior = global_posterior
        self.classifier = classifier
        self.keywords: tuple[str, ...] = ()
        """The keyword arguments in the order of the training data. A dict may list them in another one, but an encoder may tell
        them apart by their position."""
        self._is_pyro = any(isinstance(part, PyroModule) for part in self.modules())

    def forward(self, batch: Batch) -> Distribution:
        """Return the posteriors of a batch: batch shape ``(B,)``, event shape ``(D,)``."""
        posterior: Distribution = self.family(self.context(batch))
        return posterior

    def draw_globals(self) -> GlobalDraw:
        """Draw one value of the global latents, differentiable with its log density."""
        with drawn_alike():
            return GlobalDraw() if self.global_posterior is None else self.global_posterior.draw()

    def sample_globals(self, draws: int) -> dict[str, Tensor]:
        """Return draws of the global latents, without gradients, ``(draws, *shape)`` each; empty if there are none.

        Raises:
            NonFiniteError: a draw is NaN or infinite.
        """
        return {} if self.global_posterior is None else _finite(self.global_posterior.sample(draws))

    def global_medians(self) -> dict[str, Tensor]:
        """Return the posterior medians of the global latents, ``(*shape)`` each; empty if there are none.

        Raises:
            NonFiniteError: a median is NaN or infinite.
        """
        return {} if self.global_posterior is None else _finite(self.global_posterior.medians())

    def read(self, model: Model, example: Batch) -> Features:
        """Return the features of an example, after checking those of each row; finds the labels among the arguments.

        Raises:
            EncoderError: a network fails, does not return a floating-point tensor ``(B, C)``, or mixes the rows of a batch.
            ModelError: the model has no argument for the labels.
        """
        self.keywords = tuple(example.kwargs)
        if self.classifier is not None:
            self.classifier.find(model, example)
        with torch.no_grad():
            features = self.features(example)
            self._check_row_independence(example, features)
        return features

    def setup(self, model: Model, example: Batch, features: Features) -> None:
        """Create the parameters of classifier and family, for a model that is set up and an example with these features.

        Raises:
            ModelError: the model does not observe the labels.
            FamilyError: the family cannot be built for this model.
        """
        size, family = features.of_latents.shape[1], self.family
        if self.classifier is not None:
            self.classifier.setup(model, example, features.of_labels)
            size, family = size + self.classifier.count, GivenLabel(family, self.classifier.count)
        self.family = family.setup(model.latents.dim, size, model.latents.shapes).to(features.of_latents)

    def context(self, batch: Batch) -> Tensor:
        """Return the context of each observation, ``(B, C)``: the refined one if the batch has it, else the networks' output.

        Raises:
            EncoderError: a network fails, or does not return a floating-point tensor ``(B, C)``.
        """
        if batch.context is not None:
            return batch.context
        features = self.features(batch)
        if self.classifier is None:
            return features.of_latents
        log_probs = self.classifier.log_probs(features.of_labels)
        return torch.cat([features.of_latents, self.classifier.given(log_probs, batch)], dim=-1)

    def check_labels(self, batch: Batch) -> None:
        """Raise `DataError` if a label is out of range."""
        if self.classifier is not None:
            self.classifier.argument.check(batch, self.classifier.count)

    def trained_on(self, observations: Observations, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Return the context of a fit to these observations, in which the classifier knows those that have labels."""
        return contextlib.nullcontext() if self.classifier is None else self.classifier.trained_on(observations, device)

    def classification(self) -> Tensor | float:
        """Return the classification loss of labelled training observations, negative, times its weight, a scalar."""
        assert self.classifier is not None
        batch = self.classifier.labelled()
        if batch is None or not self.classifier.weight:
            return 0.0
        return self.classifier.weight * self.classifier.log_likelihood(self._label_features(batch), batch)

    def label_probs(self, batch: Batch) -> Tensor:
        """Return ``q(y | x)``, ``(B, M)``, whether the label is known or not."""
        assert self.classifier is not None
        return self.classifier.log_probs(self._label_features(batch)).exp()

    def features(self, batch: Batch) -> Features:
        """Return what the networks find in each observation; labels are hidden from them.

        Raises:
            EncoderError: a network fails, or does not return a floating-point tensor ``(B, C)``.
        """
        features = self._run("encoder", self.encoder, batch)
        own = None if self.classifier is None else self.classifier.network
        return Features(features, features if own is None else self._run("classifier", own, batch))

    def _label_features(self, batch: Batch) -> Tensor:
        """Return what `features` finds for labels."""
        own = None if self.classifier is None else self.classifier.network
        return self._run("encoder", self.encoder, batch) if own is None else self._run("classifier", own, batch)

    def _inputs(self, batch: Batch) -> Batch:
        ordered = batch.arguments().in_order(self.keywords)
        return ordered if self.classifier is None else self.classifier.argument.removed(ordered)

    def _run(self, role: str, network: nn.Module, batch: Batch) -> Tensor:
        inputs = self.standardization(self._inputs(batch))
        # The parameters of a PyroModule already belong to the guide: they must not become param statements of a trace.
        with private_pyro_scope() if self._is_pyro else contextlib.nullcontext():
            try:
                features = network(*inputs.args, **inputs.kwargs)
            except AmortviError:
                raise
            # The user's network can raise any exception; the new message adds what it was called with.
            except Exception as error:
                raise EncoderError(
                    f"the {role} {type(network).__name__} failed on {inputs.describe()}: {quoted(error)}{inputs.hint()}"
                ) from error
        _check_features(role, features, batch.size)
        return features

    def _check_row_independence(self, example: Batch, features: Features) -> None:
        def read(chosen: Tensor) -> Mapping[str, Tensor]:
            return self.features(example.take(chosen))._asdict()

        rows = torch.arange(example.size)
        mixed = find_mixed_row(read, rows, example.device, whole=features._asdict())
        if mixed is not None:
            network = self.encoder if self.classifier is None else self.classifier.network or self.encoder
            raise EncoderError(
                f"the encoder {type(network).__name__} mixes the rows of a batch, in evaluation mode: an element of the "
                f"context is {mixed}. The posterior of an observation would depend on the batch in which it is computed. "
                f"{HOW_TO_SEPARATE_ROWS}"
            )

    def standardize(self, batch: Batch) -> None:
        """Standardize what the encoder reads, with the statistics of a sample of the training data."""
        self.standardization = Standardization.of(
            self._inputs(batch),
            casts_integers=getattr(self.encoder, "casts_integers", False),
            shares_weights=getattr(self.encoder, "shares_weights", False),
        )

    def frozen(self) -> InferenceNetwork:
        """Return a copy in evaluation mode, without gradients, which later training does not change."""
        with exclusive():  # not while another thread trains it
            return copy.deepcopy(self).eval().requires_grad_(False)


def _finite(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return values of global latents, or raise `NonFiniteError` if one is not finite."""
    bad = [name for name, value in values.items() if not bool(value.isfinite().all())]
    if bad:
        raise NonFiniteError(
            f"the posterior of the global latents {bad} is not finite: its parameters are NaN, infinite or so large that it "
            f"overflows. Train it again with a smaller lr."
        )
    return values


def _check_features(role: str, context: object, observations: int) -> None:
    if not isinstance(context, Tensor) or context.dim() != 2 or not context.is_floating_point():
        got = f"{tuple(context.shape)} of {context.dtype}" if isinstance(context, Tensor) else type(context).__name__
        raise EncoderError(
            f"the {role} must return a floating-point context of shape (observations, features); got {got}. End it with "
            f"nn.Flatten() if it has more dimensions, and return a single tensor."
        )
    if context.shape[1] == 0:
        raise EncoderError(f"the {role} must return at least one feature; got shape {tuple(context.shape)}.")
    if context.shape[0] != observations:
        raise EncoderError(
            f"the {role} must return one row per observation: it was called with {observations} observations and returned a "
            f"context of shape {tuple(context.shape)}."
        )
