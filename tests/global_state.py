"""All global state that a compiled step could leave changed."""

import contextlib
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from amortvi.compile.executable import flushes_denormals


def global_state() -> dict[str, Any]:
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    torch.compiler.disable(
        lambda: None
    )  # when its compiler is first used, torch turns the validation of its distributions off
    return {
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "flushes denormals": flushes_denormals(),
        "threads": torch.get_num_threads(),
        "compiling": torch.compiler.is_compiling(),
        "validation": torch.distributions.Distribution._validate_args,
        "torchscript optimizes": torch._C._get_graph_executor_optimize(),
        "modes": [len(_get_current_dispatch_mode_stack()), torch._C._len_torch_function_stack()],
        "module hooks": len(torch.nn.modules.module._global_forward_pre_hooks),
        "pyro settings": dict(pyro.settings.get()),
        "pyro handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "pyro functions": [pyro.infer.trace_elbo.torch_item, pyro.infer.trace_elbo.warn_if_nan],
        "param store": {name: value.tolist() for name, value in pyro.get_param_store().items()},
        "torch random state": torch.get_rng_state().tolist(),
        "python random state": random.getstate(),
        "numpy random state": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "warning filters": list(warnings.filters),
        "dynamo": dynamo.get_config_copy(),
        "inductor": inductor.get_config_copy(),
    }


@contextlib.contextmanager
def nothing_changes(*, except_for: tuple[str, ...] = ()) -> Iterator[None]:
    before = global_state()
    yield
    for name, value in global_state().items():
        assert name in except_for or value == before[name], name
