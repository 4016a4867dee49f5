"""Seeds leave the caller's random state untouched and give independent streams."""

import contextlib

import numpy as np
import torch

from amortvi._util.random import Stream, derived_seed, random_state, reseed


def draw() -> tuple[float, float]:
    return float(torch.rand(())), float(np.random.rand())  # noqa: NPY002  # models may use the global generator


def states() -> tuple[bytes, bytes]:
    return bytes(torch.get_rng_state()), np.random.get_state()[1].tobytes()  # noqa: NPY002


def test_a_seed_reproduces_draws_and_restores_both_generators() -> None:
    before, results = states(), []
    for seed, nested in ((0, 1), (0, 2), (1, 2), (2**64 - 1, 2)):
        with contextlib.suppress(KeyError), random_state(seed):
            first = draw()
            with random_state(nested):
                draw()
            results.append((first, draw()))
            reseed(5)
            results[-1] += (draw(),)
            raise KeyError
    assert results[0] == results[1]
    assert len({result[:2] for result in results}) == 3
    assert len({result[2] for result in results}) == 1
    assert states() == before


def test_without_a_seed_the_callers_state_is_used() -> None:
    torch.manual_seed(0)
    before = states()
    with random_state(None):
        draw()
        reseed(None)
    assert states() != before


def test_derived_seeds_differ_for_every_key() -> None:
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), *((stream, 7) for stream in Stream)]
    seeds = [derived_seed(seed, *key) for seed in (0, 1) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert derived_seed(None, 1) is None
