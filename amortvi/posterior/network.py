"""The inference network: an encoder and a posterior family, which together map an observation to ``q(z | x)``."""

from __future__ import annotations

import contextlib
import copy

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from amortvi.data import Batch
from amortvi.encoders.standardization import Standardization
from amortvi.errors import AmortviError, EncoderError, quoted
from amortvi.families import Family
from amortvi.model import HOW_TO_SEPARATE_ROWS, find_mixed_row
from amortvi.posterior.global_latents import GlobalDraw, GlobalPosterior, private_pyro_scope

__all__ = ["InferenceNetwork"]


class InferenceNetwork(nn.Module):
    """The map ``x -> context -> q(z | x)``, the only way in which posteriors are computed, and the posterior of global latents.

    Args:
        encoder: called with the model's arguments; returns the context, ``(B, C)``.
        family: maps the context to the posteriors.
        label: the name under which tables list the family.
        global_posterior: the posterior ``q(theta)`` of the latents outside the data plate, if there are any.

    Raises:
        EncoderError: the encoder is not an `nn.Module`.
    """

    def __init__(
        self, encoder: nn.Module, family: Family, label: str, global_posterior: GlobalPosterior | None = None
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
        self.keywords: tuple[str, ...] = ()
        """The keyword arguments in the order of the training data. A dict may list them in another one, but an encoder may tell
        them apart by their position."""
        self._encoder_is_pyro = any(isinstance(part, PyroModule) for part in encoder.modules())

    def forward(self, batch: Batch) -> Distribution:
        """Return the posteriors of a batch: batch shape ``(B,)``, event shape ``(D,)``."""
        posterior: Distribution = self.family(self.context(batch))
        return posterior

    def draw_globals(self) -> GlobalDraw:
        """Draw one value of the global latents, differentiable with its log density."""
        return GlobalDraw() if self.global_posterior is None else self.global_posterior.draw()

    def sample_globals(self, draws: int) -> dict[str, Tensor]:
        """Return draws of the global latents, without gradients, ``(draws, *shape)`` each; empty if there are none."""
        return {} if self.global_posterior is None else self.global_posterior.sample(draws)

    def global_medians(self) -> dict[str, Tensor]:
        """Return the posterior medians of the global latents, ``(*shape)`` each; empty if there are none."""
        return {} if self.global_posterior is None else self.global_posterior.medians()

    def context(self, batch: Batch) -> Tensor:
        """Return the context of each observation, ``(B, C)``: the refined one if the batch has it, else the encoder's output.

        Raises:
            EncoderError: the encoder fails, or does not return a floating-point tensor ``(B, C)``.
        """
        if batch.context is not None:
            return batch.context
        # The parameters of a PyroModule already belong to the guide: they must not become param statements of a trace.
        with private_pyro_scope() if self._encoder_is_pyro else contextlib.nullcontext():
            inputs = self.standardization(batch.in_order(self.keywords))
            try:
                context = self.encoder(*inputs.args, **inputs.kwargs)
            except AmortviError:
                raise
            # The user's network can raise any exception; the new message adds what it was called with.
            except Exception as error:
                raise EncoderError(
                    f"the encoder {type(self.encoder).__name__} failed on {batch.describe()}: {quoted(error)}{batch.hint()}"
                ) from error
        _check_context(context, batch.size)
        return context

    def check_row_independence(self, example: Batch, context: Tensor) -> None:
        """Raise `EncoderError` if the context of an observation, ``(B, C)``, depends on the other rows of its batch."""
        mixed = find_mixed_row(
            lambda chosen: {"context": self.context(example.take(chosen))},
            torch.arange(example.size),
            example.device,
            whole={"context": context},
        )
        if mixed is not None:
            raise EncoderError(
                f"the encoder {type(self.encoder).__name__} mixes the rows of a batch, in evaluation mode: an element of the "
                f"context is {mixed}. The posterior of an observation would depend on the batch in which it is computed. "
                f"{HOW_TO_SEPARATE_ROWS}"
            )

    def standardize(self, batch: Batch) -> None:
        """Standardize what the encoder reads, with the statistics of a sample of the training data."""
        self.standardization = Standardization.of(
            batch.in_order(self.keywords),
            casts_integers=getattr(self.encoder, "casts_integers", False),
            shares_weights=getattr(self.encoder, "shares_weights", False),
        )

    def frozen(self) -> InferenceNetwork:
        """Return a copy in evaluation mode, without gradients, which later training does not change."""
        return copy.deepcopy(self).eval().requires_grad_(False)


def _check_context(context: object, observations: int) -> None:
    if not isinstance(context, Tensor) or context.dim() != 2 or not context.is_floating_point():
        got = f"{tuple(context.shape)} of {context.dtype}" if isinstance(context, Tensor) else type(context).__name__
        raise EncoderError(
            f"the encoder must return a floating-point context of shape (observations, features); got {got}. End it with "
            f"nn.Flatten() if it has more dimensions, and return a single tensor."
        )
    if context.shape[1] == 0:
        raise EncoderError(f"the encoder must return at least one feature; got shape {tuple(context.shape)}.")
    if context.shape[0] != observations:
        raise EncoderError(
            f"the encoder must return one row per observation: it was called with {observations} observations and returned a "
            f"context of shape {tuple(context.shape)}."
        )
