"""Data, masks and indices that a model takes from lists, NumPy arrays and loaders."""

import operator

import numpy as np
import torch

from tests.compile.svi.probes.programs import (
    COMPILES,
    CONSTANT_CALLS,
    COUNTED,
    ROWS,
    WATCHED,
    Program,
    data,
    mean_field,
    observe,
    probe,
)


@probe(WATCHED)
def list_of_indices():
    rows, scales = [0, 1], torch.tensor([0.5, 0.5, 1.5])
    return Program(lambda x: observe(x, scales[rows].sum()), change=lambda: operator.setitem(rows, 1, 2))


@probe(COMPILES)
def constant_indices():
    return Program(lambda x: observe(x[[0, 2, 1, 3, 5, 4]], x[:, [1, 0]].exp()))


@probe(WATCHED)
def boolean_mask_in_a_closure():
    mask = torch.tensor([True, True, False, False, True, False])
    return Program(lambda x: observe(x, 1.0 + x[mask].abs().mean()), change=lambda: mask.fill_(True))


@probe(COMPILES)
def boolean_mask_that_is_constant():
    mask = torch.tensor([True, True, False, False, True, False])
    return Program(lambda x: observe(x, 1.0 + x[mask].abs().mean()))


@probe(WATCHED)
def boolean_mask_made_of_a_list():
    keep = [True, True, False, False, True, False]
    return Program(
        lambda x: observe(x, 1.0 + x[torch.tensor(keep)].abs().mean()), change=lambda: operator.setitem(keep, 0, False)
    )


@probe(WATCHED)
def numpy_view_of_a_tensor():
    scale = torch.ones(1)
    view = scale.numpy()
    return Program(lambda x: observe(x, float(view[0])), change=lambda: scale.fill_(2.0))


@probe(COMPILES)
def tensor_that_shares_memory_with_numpy():
    numbers = np.ones(1, dtype=np.float32)
    scale = torch.from_numpy(numbers)
    return Program(lambda x: observe(x, scale), change=lambda: numbers.fill(2.0))


@probe(WATCHED)
def tensor_made_of_numpy_in_the_model():
    numbers = np.ones(1, dtype=np.float32)
    return Program(lambda x: observe(x, torch.from_numpy(numbers)), change=lambda: numbers.fill(2.0))


@probe(WATCHED)
def tensor_made_of_a_large_numpy_array_in_the_model():
    numbers = np.ones((ROWS, 200), dtype=np.float32)
    return Program(lambda x: observe(x, torch.as_tensor(numbers)[:, :2]), change=lambda: numbers.fill(2.0))


@probe(WATCHED)
def tensor_made_of_a_list_in_the_model():
    numbers = [1.0, 1.0]
    return Program(lambda x: observe(x, torch.tensor(numbers)), change=lambda: operator.setitem(numbers, 0, 2.0))


@probe(WATCHED)
def tensor_made_of_a_long_list_in_the_model():
    numbers = [1.0] * 150
    return Program(lambda x: observe(x, torch.tensor(numbers)[-2:]), change=lambda: operator.setitem(numbers, 149, 2.0))


@probe(COUNTED)
def batches_from_a_queue():
    batches = [data() + 1.0] * 60 + [data()] * CONSTANT_CALLS
    return Program(lambda: observe(batches.pop()), lambda: mean_field(data()), drive=lambda svi, step: svi.step())


@probe(WATCHED)
def batches_from_a_loader():
    """The model iterates over its data itself, as in full-batch training loops."""
    rows = torch.utils.data.TensorDataset(data(4 * ROWS))
    loader = torch.utils.data.DataLoader(rows, batch_size=ROWS)

    def model():
        observe(next(iter(loader))[0])

    return Program(model, lambda: mean_field(data()), drive=lambda svi, step: svi.step())


@probe(WATCHED)
def batches_that_a_loader_shuffles():
    rows = torch.utils.data.TensorDataset(data(4 * ROWS))
    loader = torch.utils.data.DataLoader(rows, batch_size=ROWS, shuffle=True)

    def model():
        observe(next(iter(loader))[0])

    return Program(model, lambda: mean_field(data()), drive=lambda svi, step: svi.step())
