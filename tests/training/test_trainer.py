"""What a fit keeps from one call to the next, and the optimizers, schedules and types it works with."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from tests.training.problem import X, make_vi, parameters


def test_a_further_fit_continues() -> None:
    """Two fits of two epochs equal one of four: parameters, optimizer, shuffling and noise continue."""
    options = {"lr_schedule": "constant", "seed": 0, "progress": False}
    whole = make_vi("diagonal").fit(X, epochs=4, **options)
    parts = make_vi("diagonal").fit(X, epochs=2, **options).fit(X, epochs=2, **options)
    assert torch.equal(parameters(whole), parameters(parts))
    assert list(parts.history.index) == [1, 2, 3, 4]
    assert np.array_equal(whole.history["elbo"], parts.history["elbo"])


def test_learning_rate_schedules() -> None:
    halving = make_vi().fit(
        X, epochs=3, lr=0.1, lr_schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), progress=False
    )
    np.testing.assert_allclose(halving.history["learning_rate"], [0.1, 0.05, 0.025])
    halving.fit(X, epochs=1, lr=0.3, lr_schedule="constant", progress=False)
    assert halving.history["learning_rate"].iloc[-1] == pytest.approx(0.3)

    def plateau(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
        # With this threshold no epoch counts as an improvement.
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")

    vi = make_vi().fit(X, validation_data=X, epochs=3, lr=0.1, lr_schedule=plateau, progress=False)
    np.testing.assert_allclose(vi.history["learning_rate"], [0.1, 0.1, 0.01])


OPTIMIZERS: list[tuple[Callable[..., torch.optim.Optimizer], float]] = [
    (torch.optim.Adam, 0.01),
    (torch.optim.AdamW, 0.01),
    (torch.optim.SGD, 0.02),
    (torch.optim.RMSprop, 0.01),
    (torch.optim.Adagrad, 0.01),
    (torch.optim.Adadelta, 1.0),
    (torch.optim.NAdam, 0.01),
    (torch.optim.RAdam, 0.05),
    (torch.optim.Adamax, 0.01),
    (torch.optim.ASGD, 0.02),
    (torch.optim.Rprop, 0.003),
    (partial(torch.optim.LBFGS, max_iter=5, line_search_fn="strong_wolfe"), 0.003),
    (partial(torch.optim.SGD, momentum=0.9, nesterov=True), 0.02),
]


@pytest.mark.parametrize(("optimizer", "lr"), OPTIMIZERS)
def test_any_torch_optimizer(optimizer: Callable[..., torch.optim.Optimizer], lr: float) -> None:
    vi = make_vi().setup(X, seed=0)
    start = vi.evaluate(X, particles=200, seed=0)
    vi.fit(X, epochs=15, lr=lr, batch_size=300, optimizer=optimizer, seed=0, gradient_clip=10.0, progress=False)
    end = vi.evaluate(X, particles=200, seed=0)
    error = np.sqrt((start["elbo_se"] ** 2 + end["elbo_se"] ** 2).sum()) / len(X)
    assert end["elbo"].mean() - start["elbo"].mean() > 5 * error


def test_gradient_clip_bounds_the_step() -> None:
    vi = make_vi().setup(X, seed=0)
    before = parameters(vi)
    vi.fit(X, epochs=1, lr=1.0, batch_size=300, optimizer=torch.optim.SGD, gradient_clip=0.01, seed=0, progress=False)
    assert (parameters(vi) - before).norm() == pytest.approx(0.01, rel=1e-3)


def test_parameter_groups_keep_their_learning_rates() -> None:
    seen: list[torch.optim.Optimizer] = []

    def optimizer(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
        seen.append(torch.optim.Adam([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 10 * lr}], lr=lr))
        return seen[-1]

    vi = make_vi().fit(X, epochs=1, lr=2**-8, lr_schedule="constant", optimizer=optimizer, seed=0, progress=False)
    assert [group["lr"] for group in seen[0].param_groups] == [2**-8, 10 * 2**-8]
    vi.fit(X, epochs=1, lr=2**-9, lr_schedule="constant", optimizer=optimizer, seed=0, progress=False)
    assert [group["lr"] for group in seen[0].param_groups] == [2**-9, 10 * 2**-9]
    assert len(seen) == 1


def test_double_precision() -> None:
    vi = make_vi().fit(X.double(), epochs=2, dtype=torch.float64, seed=0, progress=False)
    assert parameters(vi).dtype == torch.float64
    assert vi.posterior(X.double()).covariance.dtype == torch.float64
    assert vi.predict(X.double(), 2)["x"].dtype == torch.float64
    vi.to(dtype=torch.float32).fit(X, epochs=1, progress=False)
    assert vi.posterior(X).mean["z"].dtype == torch.float32
