"""A compiled fit leaves every global setting as it was, also where it fails."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch

import amortvi as avi
from amortvi.compile.compiler import flushes_denormals
from amortvi.errors import CaptureError, NonFiniteError
from tests.training.steps.test_compiled import TurnsBad, fitted, reads_a_value


def everything_global() -> dict[str, Any]:
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    return {
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "flushed denormals": flushes_denormals(),
        "threads": torch.get_num_threads(),
        "compiling": torch.compiler.is_compiling(),
        "validation": torch.distributions.Distribution._validate_args,
        "pyro settings": dict(pyro.settings.get()),
        "pyro handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "param store": {name: value.detach().clone() for name, value in pyro.get_param_store().items()},
        "torch random state": torch.get_rng_state(),
        "numpy random state": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "warning filters": list(warnings.filters),
        "dynamo": dynamo.get_config_copy(),
        "inductor": inductor.get_config_copy(),
    }


def assert_unchanged(before: dict[str, Any]) -> None:
    after = everything_global()
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name]), name
        elif name == "param store":
            assert value.keys() == after[name].keys()
            assert all(torch.equal(value[key], after[name][key]) for key in value)
        else:
            assert value == after[name], name


def works() -> None:
    fitted(epochs=3, batch_size=40)


def cannot_be_recorded() -> None:
    with pytest.raises(CaptureError):
        fitted(avi.AmortizedVI(reads_a_value, avi.encoders.MLP(3, [6])), dtype=torch.float32)


def is_not_finite() -> None:
    torch.manual_seed(0)
    with torch.random.fork_rng(), pytest.raises(NonFiniteError):
        fitted(avi.AmortizedVI(TurnsBad(), avi.encoders.MLP(3, [6])), lr=1.0, epochs=50, dtype=torch.float32)


@pytest.mark.parametrize("run", [works, cannot_be_recorded, is_not_finite])
def test_a_fit_leaves_no_trace(run: Callable[[], None]) -> None:
    pyro.clear_param_store()
    pyro.param("mine", torch.ones(2))
    torch.manual_seed(0)
    before = everything_global()
    with torch.random.fork_rng():  # the networks of the test are drawn inside
        run()
    assert_unchanged(before)
    pyro.clear_param_store()
