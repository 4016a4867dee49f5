"""Random numbers: from Python, NumPy and generators, seeds that the model sets, and branches that are rarely taken."""

import random

import numpy as np
import pyro
import torch
from pyro import distributions as dist

from tests.compile.svi.probes.programs import (
    AUDITED,
    COMPILES,
    CONSTANT_CALLS,
    COUNTED,
    ROWS,
    WATCHED,
    Program,
    data,
    observe,
    probe,
    propose,
)


@probe(WATCHED)
def random_of_python():
    return Program(lambda x: observe(x, 1.0 + random.random()))


@probe(WATCHED)
def choice_of_python():
    return Program(lambda x: observe(x, random.choice([1.0, 2.0, 3.0])))


@probe(COUNTED)
def generator_of_python():
    generator = random.Random(3)
    return Program(lambda x: observe(x, 1.0 + generator.random()))


@probe(WATCHED)
def rows_shuffled_by_python():
    def model(x):
        rows = list(range(ROWS))
        random.shuffle(rows)
        observe(x[rows])

    return Program(model)


@probe(WATCHED)
def random_of_numpy():
    return Program(lambda x: observe(x, 1.0 + np.random.rand()))  # noqa: NPY002


@probe(COUNTED)
def generator_of_numpy():
    generator = np.random.default_rng(3)
    return Program(lambda x: observe(x, 1.0 + generator.random()))


@probe(WATCHED)
def noise_of_numpy():
    def model(x):
        noise = torch.as_tensor(np.random.randn(*x.shape), dtype=x.dtype)  # noqa: NPY002
        observe(x + noise)

    return Program(model)


@probe(WATCHED)
def generator_of_torch():
    generator = torch.Generator().manual_seed(3)
    return Program(lambda x: observe(x, 1.0 + torch.rand((), generator=generator)))


@probe(WATCHED)
def generator_of_torch_that_is_seeded_in_the_model():
    generator = torch.Generator()
    return Program(lambda x: observe(x, 1.0 + torch.rand((), generator=generator.manual_seed(3))))


@probe(WATCHED)
def default_generator_of_torch():
    return Program(lambda x: observe(x, 1.0 + torch.rand((), generator=torch.default_generator)))


@probe(WATCHED)
def seed_in_the_model():
    def model(x):
        pyro.set_rng_seed(7)
        observe(x, 1.0 + torch.rand(()))

    return Program(model)


@probe(WATCHED)
def seed_of_torch_in_the_model():
    def model(x):
        torch.manual_seed(7)
        observe(x, 1.0 + torch.rand(()))

    return Program(model)


@probe(WATCHED)
def seed_in_the_guide():
    def guide(x):
        torch.manual_seed(7)
        propose(x, pyro.param("loc", lambda: torch.zeros(2)))

    return Program(observe, guide)


@probe(WATCHED)
def seed_that_changes_in_the_model():
    options = {"seed": 7}

    def model(x):
        torch.manual_seed(options["seed"])
        observe(x, 1.0 + torch.rand(()))

    return Program(model, change=lambda: options.update(seed=8))


@probe(WATCHED)
def forked_state():
    def model(x):
        with torch.random.fork_rng():
            torch.manual_seed(11)
            noise = torch.rand(())
        observe(x, 1.0 + noise)

    return Program(model)


@probe(WATCHED)
def forked_state_without_a_seed():
    """The draws in the block are repeated by those that follow it."""

    def model(x):
        with torch.random.fork_rng():
            noise = torch.rand(())
        observe(x, 1.0 + noise)

    return Program(model)


@probe(WATCHED)
def common_random_numbers():
    state = torch.random.get_rng_state()

    def guide(x):
        torch.random.set_rng_state(state)
        propose(x, pyro.param("loc", lambda: torch.zeros(2)))

    return Program(observe, guide)


@probe(WATCHED)
def seed_that_is_read():
    return Program(
        lambda x: observe(x, 1.0 + torch.initial_seed() % 7), change=lambda: torch.manual_seed(5 + torch.initial_seed())
    )


@probe(COMPILES)
def seed_between_steps():
    def drive(svi, step):
        torch.manual_seed(step % 3)
        return svi.step(data())

    return Program(observe, drive=drive)


@probe(COMPILES)
def noise_of_torch():
    return Program(lambda x: observe(x + 0.1 * torch.randn_like(x), 1.0 + torch.rand(())))


@probe(WATCHED)
def permutation_of_torch():
    return Program(lambda x: observe(x[torch.randperm(len(x))]))


@probe(WATCHED)
def number_drawn_by_torch():
    return Program(lambda x: observe(x, 1.0 + torch.rand(()).item()))


@probe(WATCHED)
def branch_on_a_draw_of_torch():
    return Program(lambda x: observe(x, 2.0 if torch.rand(()) < 0.1 else 1.0))


@probe(WATCHED)
def minibatch_in_the_model():
    """Pyro's plate draws the rows."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=3) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", len(x), subsample_size=3):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return Program(model, guide)


def rarely(happens):
    """Return a program with another scale in the steps in which ``happens(call)`` is true."""
    calls = iter(range(1_000_000))

    def scale():
        return 3.0 if happens(next(calls)) else 1.0

    return Program(lambda x: observe(x, scale()))


@probe(AUDITED)
def rare_branch_of_python():
    """Taken in one of eight steps."""
    return Program(lambda x: observe(x, 3.0 if random.random() < 0.125 else 1.0))


@probe(AUDITED)
def rare_branch_of_numpy():
    return Program(lambda x: observe(x, 3.0 if np.random.rand() < 0.125 else 1.0))  # noqa: NPY002


@probe(AUDITED)
def branch_of_every_fifth_call():
    return rarely(lambda call: call % 5 == 4)


@probe(AUDITED)
def branch_from_some_call_on():
    return rarely(lambda call: call >= CONSTANT_CALLS)


@probe(AUDITED)
def rare_branch_of_a_hash():
    return rarely(lambda call: hash((call, 1)) % 4 == 0)


@probe(WATCHED)
def dropout_of_python():
    """A list of flags that is drawn anew in each step."""

    def model(x):
        keep = torch.tensor([random.random() < 0.5 for _ in range(ROWS)])
        observe(torch.where(keep.unsqueeze(-1), x, torch.zeros(())))

    return Program(model)


@probe(WATCHED)
def sample_with_another_shape():
    options = {"draws": 1}

    def model(x):
        observe(x, 1.0 + dist.Beta(2.0, 2.0).sample((options["draws"],)).mean())

    return Program(model, change=lambda: options.update(draws=3))
