"""Tensors as arguments of a step: views, shapes, types, and memory that several batches share."""

import torch

from tests.compile.svi.probes.programs import (
    CHANGE_AT,
    COMPILES,
    ROWS,
    WATCHED,
    Program,
    data,
    mean_field,
    observe,
    probe,
)


def batches(before, after=None, model=observe, guide=mean_field):
    """Return the program that receives other batches from `CHANGE_AT` on."""
    return Program(model, guide, arguments=lambda step: (before() if step < CHANGE_AT or after is None else after(),))


@probe(COMPILES)
def new_batch_in_each_step():
    return batches(data, lambda: data() + 1.0)


@probe(COMPILES)
def columns_of_a_table():
    """A slice with strides of its own."""
    table = torch.cat([torch.zeros(ROWS, 1), data()], 1)
    return batches(lambda: table[:, 1:], lambda: (table + 1.0)[:, 1:])


@probe(COMPILES)
def rows_of_a_table():
    table = data(2 * ROWS)
    return batches(lambda: table[:ROWS], lambda: table[ROWS:])


@probe(COMPILES)
def every_second_row():
    table = data(2 * ROWS)
    return batches(lambda: table[::2], lambda: table[1::2])


@probe(COMPILES)
def transposed_batch():
    return batches(lambda: data().T.contiguous().T, lambda: (data() + 1.0).T.contiguous().T)


@probe(COMPILES)
def expanded_batch():
    """Several elements share memory."""
    return batches(lambda: torch.ones(1, 2).expand(ROWS, 2), lambda: torch.zeros(1, 2).expand(ROWS, 2))


@probe(WATCHED)
def strides_that_change():
    return batches(data, lambda: (data() + 1.0).T.contiguous().T)


@probe(WATCHED)
def last_batch_that_is_shorter():
    return batches(data, lambda: data(4))


@probe(WATCHED)
def empty_batch():
    return batches(data, lambda: data()[:0])


@probe(WATCHED)
def batch_of_one_row():
    return batches(data, lambda: data(1))


@probe(WATCHED)
def another_size_in_each_step():
    return Program(observe, arguments=lambda step: (data(2 + step),))


@probe(WATCHED)
def type_that_changes():
    return batches(data, lambda: data().double() + 1.0)


@probe(COMPILES)
def batch_in_memory_of_an_earlier_batch():
    buffer = data()
    return batches(lambda: buffer.copy_(data()), lambda: buffer.copy_(data() + 1.0))


@probe(COMPILES)
def scalar_tensor():
    def arguments(step):
        return data(), torch.tensor(1.0 if step < CHANGE_AT else 2.0)

    return Program(observe, arguments=arguments)


@probe(WATCHED)
def integer_tensor_that_is_read():
    def arguments(step):
        return data(), torch.tensor(1 if step < CHANGE_AT else 2)

    return Program(lambda x, scale: observe(x, float(scale)), arguments=arguments)


@probe(COMPILES)
def integer_tensor_as_an_index():
    scales = torch.tensor([1.0, 2.0])

    def arguments(step):
        return data(), torch.tensor([0 if step < CHANGE_AT else 1])

    return Program(lambda x, index: observe(x, scales[index]), arguments=arguments)


@probe(WATCHED)
def mask_that_selects_rows():
    def arguments(step):
        return data(), torch.arange(ROWS) < (3 if step < CHANGE_AT else 5)

    return Program(lambda x, mask: observe(x, 1.0 + x[mask].abs().mean()), arguments=arguments)


@probe(COMPILES)
def mask_that_chooses_values():
    def arguments(step):
        return data(), (torch.arange(ROWS) < (3 if step < CHANGE_AT else 5)).unsqueeze(-1)

    return Program(lambda x, mask: observe(torch.where(mask, x, torch.zeros(()))), arguments=arguments)


@probe(WATCHED)
def lengths_of_sequences():
    def arguments(step):
        return data(), torch.tensor([2, 3] if step < CHANGE_AT else [2, 5])

    return Program(
        lambda x, lengths: observe(x[: lengths.max()], 2.0),
        lambda x, lengths: mean_field(x[: lengths.max()]),
        arguments=arguments,
    )


@probe(WATCHED)
def argument_that_requires_a_gradient():
    shift = torch.zeros(2, requires_grad=True)

    def arguments(step):
        return data(), shift

    def model(x, shift):
        observe(x, shift=shift + 0.01 * (0.0 if shift.grad is None else shift.grad))

    return Program(model, arguments=arguments).steady()


@probe(WATCHED)
def argument_that_the_model_changes():
    """The sum in the argument grows with each step."""
    total = torch.zeros(2)

    def model(x, total):
        total.add_(0.1)
        observe(x, shift=total)

    return Program(model, arguments=lambda step: (data(), total)).steady()


@probe(WATCHED)
def attribute_of_a_batch():
    def arguments(step):
        x = data()
        x.scale = 1.0 if step < CHANGE_AT else 2.0
        return (x,)

    return Program(lambda x: observe(x, x.scale), arguments=arguments)


@probe(WATCHED)
def subclass_of_tensor():
    class Batch(torch.Tensor):
        scale = 1.0

    def change():
        Batch.scale = 2.0

    return Program(lambda x: observe(x, x.scale), arguments=lambda step: (data().as_subclass(Batch),), change=change)


@probe(WATCHED)
def same_tensor_twice():
    """Two arguments are the same tensor, and then two."""

    def arguments(step):
        x = data()
        return x, x if step < CHANGE_AT else data()

    return Program(lambda x, y: observe(x, 1.0 if x is y else 2.0), arguments=arguments)


@probe(WATCHED)
def batch_that_is_kept_by_the_model():
    """The model compares a batch with the one before."""
    last = {}

    def model(x):
        observe(x, 1.0 + 0.1 * (x - last.get("x", x)).abs().mean())
        last["x"] = x

    return Program(model, arguments=lambda step: (data() + 0.1 * (step % 3),))


@probe(WATCHED)
def batch_that_is_read_once():
    """The mean of the first batch is kept for all others."""
    cache = []

    def model(x):
        if not cache:
            cache.append(x.mean())
        observe(x, shift=cache[0])

    return batches(data, lambda: data() + 1.0, model)


@probe(WATCHED)
def statistic_that_the_model_reads():
    return batches(data, lambda: data() + 1.0, lambda x: observe(x, 1.0 + float(x.mean())))


@probe(WATCHED)
def number_of_distinct_values():
    return batches(data, lambda: data().round(), lambda x: observe(x, float(len(x.unique())) / 6))
