"""NumPyro: `SVI.update` compiled by JAX, one step or one whole epoch per call. This module needs NumPyro.

Validation of distributions is off: NumPyro runs as fast as it can, and a validated Bernoulli gives zero probability
to intensities between 0 and 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.example_libraries import stax
from numpyro.infer import SVI
from numpyro.infer.elbo import ELBO
from numpyro.infer.svi import SVIState

from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor

__all__ = ["stepwise", "whole_epochs"]


def stepwise(problem: Problem, epochs: int, elbo: ELBO) -> Competitor:
    """Return a loop that calls the compiled update for each minibatch; the update gathers the rows.

    Args:
        problem: the model and the data.
        epochs: epochs per run.
        elbo: the loss.
    """
    svi, state = _set_up(problem, elbo)
    x = jnp.asarray(problem.x.numpy())
    generator = np.random.default_rng(0)
    epoch_loss = jnp.zeros(())

    def update(state: SVIState, total: Array, x: Array, rows: Array) -> tuple[SVIState, Array]:
        state, loss = svi.update(state, x[rows])
        return state, total + loss

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def run() -> None:
        nonlocal state, epoch_loss
        for _ in range(epochs):
            epoch_loss = jnp.zeros(())
            order = generator.permutation(len(x))
            for start in range(0, len(x), problem.batch_size):
                state, epoch_loss = compiled(state, epoch_loss, x, order[start : start + problem.batch_size])
            epoch_loss.item()
        jax.block_until_ready(state)

    return Competitor(run, lambda: -epoch_loss.item() / len(x))


def whole_epochs(problem: Problem, epochs: int, elbo: ELBO) -> Competitor:
    """Return a loop over epochs, each one call of a compiled function that gathers and updates in a `fori_loop`.

    The number of iterations is constant, so JAX turns the `fori_loop` into a `lax.scan`. NumPy shuffles the observations
    once per epoch. JAX would sort random numbers instead, which takes longer.

    Args:
        problem: the model and the data.
        epochs: epochs per run.
        elbo: the loss.
    """
    svi, state = _set_up(problem, elbo)
    x = jnp.asarray(problem.x.numpy())
    generator = np.random.default_rng(0)
    size, (full, rest) = problem.batch_size, divmod(len(x), problem.batch_size)
    epoch_loss = jnp.zeros(())

    def epoch(state: SVIState, x: Array, order: Array) -> tuple[SVIState, Array]:
        def body(i: Array, carry: tuple[SVIState, Array]) -> tuple[SVIState, Array]:
            state, total = carry
            state, loss = svi.update(state, x[jax.lax.dynamic_slice_in_dim(order, i * size, size)])
            return state, total + loss

        state, total = jax.lax.fori_loop(0, full, body, (state, jnp.zeros(())))
        if rest:  # all iterations of a loop have the same shape, so the smaller last batch follows it
            state, loss = svi.update(state, x[order[full * size :]])
            total = total + loss
        return state, total

    compiled = jax.jit(epoch, donate_argnums=0)

    def run() -> None:
        nonlocal state, epoch_loss
        for _ in range(epochs):
            state, epoch_loss = compiled(state, x, generator.permutation(len(x)))
            epoch_loss.item()
        jax.block_until_ready(state)

    return Competitor(run, lambda: -epoch_loss.item() / len(x))


def _set_up(problem: Problem, elbo: ELBO) -> tuple[SVI, SVIState]:
    """Return the SVI of a problem, with networks as in NumPyro's VAE example, and its initial state."""
    numpyro.enable_validation(False)
    features, hidden, latents = problem.features, problem.hidden, problem.latents
    encoder = stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(2 * latents))
    decoder = stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(features))

    def model(x: Array) -> None:
        decode = numpyro.module("decoder", decoder, (x.shape[0], latents))
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latents), jnp.ones(latents)).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Array) -> None:
        encode = numpyro.module("encoder", encoder, (x.shape[0], features))
        loc, log_scale = jnp.split(encode(x), 2, axis=-1)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(problem.lr), elbo)
    example = jnp.asarray(problem.x[: problem.batch_size].numpy())
    return svi, svi.init(jax.random.key(0), example)
