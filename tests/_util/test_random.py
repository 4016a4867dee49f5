"""Seeds leave the caller's random state untouched and give independent streams."""

import contextlib

import numpy as np
import pytest
import torch

from amortvi._util.random import Stream, derived_seed, random_state, reseed
from amortvi.errors import OptionError


def draw() -> tuple[float, float]:
    return float(torch.rand(())), float(np.random.rand())  # noqa: NPY002  # models may use the global generator


def states() -> tuple[bytes, bytes]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002


def test_a_seed_reproduces_draws_and_restores_both_generators() -> None:
    before = states()
    results = []
    for seed in (0, 0, 1, 2**64 - 1):
        with random_state(seed):
            results.append(draw())
    assert results[0] == results[1]
    assert len(set(results)) == 3
    assert states() == before


def test_the_state_is_restored_after_an_error() -> None:
    before = states()
    with contextlib.suppress(KeyError), random_state(0):
        draw()
        raise KeyError
    assert states() == before


def test_without_a_seed_the_callers_state_is_used() -> None:
    torch.manual_seed(0)
    before = states()
    with random_state(None):
        draw()
        reseed(None)
    assert states() != before


def test_reseed_inside_a_random_state() -> None:
    before = states()
    with random_state(0):
        reseed(5)
        first = draw()
        reseed(5)
        assert draw() == first
    assert states() == before


def test_nested_seeds_do_not_interfere() -> None:
    with random_state(0):
        expected = draw(), draw()
    with random_state(0):
        first = draw()
        with random_state(1):
            draw()
        assert (first, draw()) == expected


def test_derived_seeds_differ_for_every_key() -> None:
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), *((stream, 7) for stream in Stream)]
    seeds = [derived_seed(seed, *key) for seed in (0, 1) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [derived_seed(seed, *key) for seed in (0, 1) for key in keys]
    assert derived_seed(None, 1) is None


def test_seeds_out_of_range() -> None:
    for call in (lambda: derived_seed(-1), lambda: random_state("0").__enter__()):
        with pytest.raises(OptionError, match="seed must be an integer"):
            call()
