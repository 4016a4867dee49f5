"""Models as users write them: one table that tests of every layer share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from amortvi.encoders import MLP, DeepSets, Recurrent, SetAttention
from tests.any_models import latents, observed, parameters
from tests.any_models.data import (
    FEATURES,
    FULL,
    LATENTS,
    ROWS,
    counts,
    covariate,
    images,
    padded,
    positive,
    real,
    standard,
)

__all__ = ["CASES", "FEATURES", "FULL", "ROWS", "Case", "case", "covariate", "padded", "real", "standard"]


@dataclass(frozen=True)
class Case:
    """A model with its arguments, and what is known about it."""

    make: Callable[[], Callable[..., Any]]
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = field(default_factory=dict)
    encoder: Callable[[], nn.Module] | None = None  # by default a perceptron over all arguments
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"z": (LATENTS,)})  # (*nested, *event)
    nesting: int = 1  # the number of batch dimensions
    particles: bool = True  # whether it accepts another batch dimension on the left, as Pyro's vectorized ELBOs need
    scale: float = 1.0  # the factor that the plate puts on the log-probability of each observation

    @property
    def x(self) -> Any:
        """The observations, as they are passed to `AmortizedVI`."""
        return self.kwargs or (self.args[0] if len(self.args) == 1 else self.args)

    def make_encoder(self) -> nn.Module:
        size = sum(value[0].numel() for value in (*self.args, *self.kwargs.values()))
        return MLP(size, [6]) if self.encoder is None else self.encoder()


def case(model: Callable[..., Any], *args: Tensor, **options: Any) -> Case:
    """Return the case of a model that is a function."""
    return Case(lambda: model, args or (real(),), **options)


CASES: dict[str, Case] = {
    "parameters of a function": case(parameters.with_params),
    "a network outside": Case(parameters.with_outer_network, (real(),)),
    "a module": Case(parameters.Decoder, (real(),)),
    "a PyroModule": Case(parameters.WithPyroParam, (real(),)),
    "the method of a module": Case(
        lambda: parameters.TutorialVAE().model, (real(),), shapes={"latent": (LATENTS,)}, particles=False
    ),
    "a prior on a parameter": case(parameters.with_a_prior_on_a_parameter),
    "a learned prior": case(parameters.with_a_learned_prior),
    "many supports": case(
        latents.many_supports,
        shapes={"z": (2,), "rate": (), "weights": (3,), "level": (2,), "share": (), "factor": (2, 2)},
    ),
    "many mixtures": case(
        latents.many_mixtures, shapes={"level": (), "z": (2,), "rate": (), "weights": (3,), "pair": (3,)}
    ),
    "pseudo-inputs": Case(parameters.PseudoInputs, (real(),)),
    "a Cholesky factor": case(latents.lower_triangle, shapes={"factor": (3, 3), "scale": (3,)}),
    "no event dimension": case(latents.without_event_dim, shapes={"z": ()}),
    "two event dimensions": case(latents.two_event_dims, shapes={"z": (2, 3)}),
    "one latent on another": case(latents.one_on_another, shapes={"top": (), "spread": (), "z": (2,)}),
    "a chain": case(latents.a_chain, shapes={f"z_{t}": () for t in range(FEATURES)}),
    "a loop inside": case(latents.a_loop_inside, shapes={f"z_{t}": () for t in range(FEATURES)}),
    "a plate on the right": case(latents.nested_right, positive(), shapes={"level": (), "rate": (3,)}, nesting=2),
    "a plate on the left": case(latents.nested_left, shapes={"level": (2,), "z": (3, 2)}, nesting=2),
    "plates on both sides": case(latents.nested_around, shapes={"z": (3,), "w": (3, 2)}, nesting=3),
    "a subsampled plate": case(latents.subsampled, scale=FULL / ROWS),
    "subsampled in parts": case(latents.subsampled_in_parts, shapes={"z": ()}, nesting=2, scale=FULL / ROWS),
    "a mask": case(observed.masked, real(), real() > 0, shapes={"z": ()}, nesting=2),
    "a set": case(
        observed.a_set, real(), real() > 0, shapes={"z": ()}, encoder=lambda: DeepSets(1, [4], after_pooling=[4])
    ),
    "attention to a set": case(
        observed.a_set, real(), real() > 0, shapes={"z": ()}, encoder=lambda: SetAttention(1, [4], heads=2)
    ),
    "a sequence": case(observed.a_set, real(), real() > 0, shapes={"z": ()}, encoder=lambda: Recurrent(1, [3])),
    "scales": case(observed.scaled),
    "weights": case(observed.with_weights, real(), covariate()),
    "a factor": case(observed.with_factor),
    "a factor alone": case(observed.with_factor_alone),
    "deterministic sites": case(observed.with_deterministic),
    "two observed sites": case(observed.two_observed, real(), counts()),
    "covariates": case(observed.with_covariates, real(), covariate()),
    "keywords": Case(lambda: observed.with_keywords, kwargs={"x": real(), "y": covariate()}),
    "a mixture": case(observed.mixture),
    "normalisation and dropout": Case(
        parameters.normalized, (real(),), encoder=parameters.normalizing_encoder, particles=False
    ),
    "lazy layers": Case(parameters.lazy, (real(),), encoder=lambda: nn.Sequential(nn.LazyLinear(6), nn.ReLU())),
    "convolutions": Case(parameters.Convolutional, (images(),), encoder=lambda: MLP(16, [6]), particles=False),
    "an encoder that holds a PyroModule": case(parameters.with_params, encoder=parameters.holds_pyro_module),
    "an encoder that is a PyroModule": Case(parameters.Decoder, (real(),), encoder=parameters.IsPyroModule),
}
