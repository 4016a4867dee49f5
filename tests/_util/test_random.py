"""Seeds leave the caller's random state untouched and give independent streams."""

import contextlib

import numpy as np
import pytest
import torch

from amortvi._util.random import (
    Share,
    SharedStream,
    Stream,
    derived_seed,
    drawn_alike,
    random_state,
    reseed,
    standard_normal,
)


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


@pytest.mark.parametrize(("size", "count"), [(1, 1), (7, 2), (8, 3), (2, 4), (1, 2)])
def test_shares_divide_a_minibatch(size: int, count: int) -> None:
    shares = [Share.of(size, rank, count) for rank in range(count)]
    assert sum(share.weight for share in shares) == pytest.approx(1.0)
    rows = [row for share in shares if share.weight for row in range(size)[share.rows]]
    assert rows == list(range(size))
    sizes = [share.stop - share.start for share in shares]
    assert min(sizes) >= 1  # a process without a row computes one with weight zero
    assert max(sizes) - min(sizes) <= 1
    assert [share.weight for share in shares] == [
        len(range(size)[share.rows]) / size * (share.weight > 0) for share in shares
    ]


@pytest.mark.parametrize("copies", [1, 3])
def test_processes_share_the_noise_of_a_minibatch(copies: int) -> None:
    like, shape, cpu = torch.zeros((), dtype=torch.float64), (4, 5 * copies, 2), torch.device("cpu")
    with random_state(3):
        first, second = standard_normal(shape, 1, like), torch.rand(3)
    drawn, own, alike = [], [], []
    for rank in range(2):
        with random_state(3):
            stream, share = SharedStream(rank, cpu), Share.of(5, rank, 2)
            stream.begin()
            own.append(torch.rand(3))
            with stream.sharing(share):
                rows = share.stop - share.start
                part = standard_normal((4, rows * copies, 2), 1, like)
                with drawn_alike():
                    alike.append(torch.rand(3))
                stream.rewind()
                assert torch.equal(part, standard_normal((4, rows * copies, 2), 1, like))
            drawn.append(part.unflatten(1, (copies, rows)))
    # As one process would have drawn it, and what follows too.
    assert torch.equal(torch.cat(drawn, 2).flatten(1, 2), first)
    assert all(torch.equal(each, second) for each in alike)
    # What each draws alone differs.
    assert not torch.equal(*own)
