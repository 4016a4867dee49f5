"""A model and data that work, and the checks of calls that do not."""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

import amortvi as avi
from amortvi.errors import AmortviError
from tests import global_state

ROWS, FEATURES, LATENTS = 40, 3, 2

NOT_POSITIVE_INTEGERS = [0, -1, True, 2.0, math.nan, "3", np.array([1, 2]), torch.tensor(3.0), np.True_]
NOT_POSITIVE_NUMBERS = [0, -1.0, True, math.nan, math.inf, "1e-3", np.array([1.0, 2.0]), torch.ones(2), None]


def prior(dim: int = LATENTS) -> Any:
    return dist.Normal(torch.zeros(dim), 1.0).to_event(1)


def decoded(z: Tensor) -> Tensor:
    return torch.cat([z, z[..., :1]], dim=-1)


def observe(z: Tensor, x: Tensor, name: str = "x", **options: Any) -> None:
    pyro.sample(name, dist.Normal(decoded(z), 0.5).to_event(1), obs=x, **options)


def good_model(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(pyro.sample("z", prior()), x)


class TurnsBad(nn.Module):
    """A model whose likelihood is NaN after a number of training steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after
        self.steps = 0
        self.shift = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> None:
        self.steps += self.training
        with pyro.plate("data", x.shape[0]):
            loc = decoded(pyro.sample("z", prior())) + self.shift
            loc = loc * math.nan if self.steps > self.after else loc
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def data(rows: int = ROWS, features: int = FEATURES) -> Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(0))


def not_finite() -> Tensor:
    """Return data with two NaN and one infinite value, in rows 7 and 9."""
    x = data()
    x[7, 1], x[9, 0], x[9, 2] = math.nan, math.inf, math.nan
    return x


class Rows(Dataset[Any]):
    """A data set of given items."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def network(hidden: int = 8) -> avi.encoders.MLP:
    """Return the same encoder at each call, and leave the global random state untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return avi.encoders.MLP(FEATURES, [hidden])


def estimator(
    model: Any = good_model, encoder: Any = None, family: Any = "diagonal", **options: Any
) -> avi.AmortizedVI:
    return avi.AmortizedVI(model, network() if encoder is None else encoder, family, **options)


def fit(vi: avi.AmortizedVI, x: Any, **options: Any) -> avi.AmortizedVI:
    return vi.fit(x, **{"epochs": 1, "batch_size": None, "seed": 0, "progress": False, **options})


def state_of(vi: avi.AmortizedVI) -> dict[str, Any]:
    parts = {"guide": vi.guide, "model": vi.generative}
    state = {f"{part}.{name}": v.clone() for part, each in parts.items() for name, v in each.state_dict().items()}
    modes = [module.training for part in parts.values() for module in part.modules()]
    return {**state, "modes": modes, "run": (vi.device, vi.dtype, repr(vi), vi.objective)}


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]) if isinstance(value, Tensor) else value == two[name], name


@contextlib.contextmanager
def nothing_changes(vi: avi.AmortizedVI | None = None) -> Iterator[None]:
    """Compare parameters, history, modes of modules and the state of the process before and after."""
    with global_state.nothing_changes(except_for=("warning filters",)):  # ArviZ adds some when it is first imported
        if vi is None:
            yield
            return
        before, history = state_of(vi), vi.history
        yield
        assert_same(state_of(vi), before)
    pd.testing.assert_frame_equal(vi.history, history)


@contextlib.contextmanager
def refused(
    error: type[AmortviError], *facts: str, vi: avi.AmortizedVI | None = None
) -> Iterator[pytest.ExceptionInfo[AmortviError]]:
    """Expect an error of exactly this class whose message contains all facts, in this order, and that nothing changes."""
    message = re.compile(".*".join(re.escape(fact) for fact in facts), re.DOTALL)
    with nothing_changes(vi), pytest.raises(error, match=message) as caught:
        yield caught
    assert type(caught.value) is error


def refused_by_fit(vi: avi.AmortizedVI, x: Any, error: type[AmortviError], *facts: str, **options: Any) -> None:
    """Check that a bad call of `fit` raises the error and changes nothing."""
    with refused(error, *facts, vi=vi):
        fit(vi, x, **options)
