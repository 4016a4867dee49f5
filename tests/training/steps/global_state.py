"""All global state that a compiled step could leave changed."""

import warnings
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from amortvi.compile.compiler import flushes_denormals


def global_state() -> dict[str, Any]:
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    return {
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "flushes denormals": flushes_denormals(),
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
    after = global_state()
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[name]), name
        elif name == "param store":
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
        else:
            assert value == after[name], name
