"""What a caller may hold, and bad calls with it."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi.io.files import read_tree, write_tree
from tests.bad_input.helpers import FEATURES, data, decoded, estimator, fit, network, not_finite, prior

X = data()


class Shifted(nn.Module):
    """A model with a parameter, which fails if it is told to."""

    def __init__(self, latents: int = 2, *, fails: bool = False) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((FEATURES,), 1 / 3))
        self.latents, self.fails = latents, fails

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior(self.latents))[..., :2]
            loc = decoded(z) + self.shift
            pyro.sample("x", dist.Normal(loc[..., :2] if self.fails else loc, 0.5).to_event(1), obs=x)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Dropout(0.1).eval(), nn.LazyBatchNorm1d())


def mixing() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.Flatten(0))


@functools.cache
def trained(dtype: torch.dtype, hidden: int) -> avi.AmortizedVI:
    return fit(estimator(Shifted(), network(hidden)), X.to(dtype), dtype=dtype)


def held(fitted: avi.AmortizedVI, path: Path) -> SimpleNamespace:
    """Return what a caller may hold when a call is refused, with saved runs in a folder."""
    other = copy.deepcopy(trained(torch.float32, 8))
    fitted.save(path / "run")
    trained(torch.float64, 5).save(path / "double")
    return SimpleNamespace(
        vi=fitted,
        other=other,
        posterior=fitted.posterior(X),
        foreign=other.posterior(X),
        model=Shifted(),
        wide=Shifted(3),
        failing=Shifted(fails=True),
        encoder=network(),
        lazy=lazy(),
        mixing=mixing(),
        x=X,
        array=X.numpy(),
        frame=pd.DataFrame(X.numpy(), columns=list("abc")),
        bad=not_finite(),
        loader=DataLoader(TensorDataset(X), batch_size=8, shuffle=True),
        path=path,
    )


def fits(**options: Any) -> Callable[[Any], Any]:
    return lambda g: fit(g.vi, options.get("x", X), **{k: v for k, v in options.items() if k != "x"})


def fresh(model: str = "model", encoder: str = "lazy", **options: Any) -> Callable[[Any], Any]:
    """Return a call that fits a new estimator of the caller's model and encoder."""
    making = {name: options.pop(name) for name in ("plate", "global_guide", "labels", "family") if name in options}
    return lambda g: fit(
        avi.AmortizedVI(getattr(g, model), getattr(g, encoder), **making), options.get("x", X),
        **{k: v for k, v in options.items() if k != "x"},
    )  # fmt: skip


def sets_up(model: str = "model", encoder: str = "lazy", x: Any = X, **making: Any) -> Callable[[Any], Any]:
    return lambda g: avi.AmortizedVI(getattr(g, model), getattr(g, encoder), **making).setup(x)


def loads(name: str = "run", model: str = "model", encoder: str = "encoder", **options: Any) -> Callable[[Any], Any]:
    return lambda g: avi.AmortizedVI.load(g.path / name, getattr(g, model), getattr(g, encoder), **options)


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
    """Return a call that loads a saved run after a change to its bytes."""

    def call(g: Any) -> Any:
        (g.path / "run").write_bytes(change((g.path / "run").read_bytes()))
        return loads()(g)

    return call


def rewritten(**changes: Any) -> Callable[[Any], Any]:
    """Return a call that loads a saved run with other content, whose checksum is right."""

    def call(g: Any) -> Any:
        write_tree(g.path / "double", {**read_tree(g.path / "double"), **changes})
        return loads("double")(g)

    return call


def families_of(**options: Any) -> Callable[[Any], Any]:
    def call(g: Any) -> Any:
        arguments = {"model": g.model, "encoder": g.encoder, "families": ["diagonal", "full"], "x": X, **options}
        return avi.fit_families(**arguments, epochs=1, progress=False)

    return call
