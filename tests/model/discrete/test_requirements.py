"""Models whose discrete latents cannot be summed out: the error says what to write instead."""

from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import DataError, ModelError
from amortvi.model import Model
from tests.model.discrete.programs import MEANS, WEIGHTS

N = 6
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))


def latent() -> Tensor:
    z: Tensor = pyro.sample("z", dist.Normal(0.0, 1.0))
    return z


def observe(loc: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])


def outside(x: Tensor) -> None:
    y = pyro.sample("y", dist.Categorical(WEIGHTS))
    with pyro.plate("data", x.shape[0]):
        observe(latent() + MEANS[y], x)


def infinite(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(latent() + pyro.sample("y", dist.Poisson(2.0)), x)


def only_discrete(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        observe(MEANS[pyro.sample("y", dist.Categorical(WEIGHTS))], x)


def concatenated(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z, y = latent(), pyro.sample("y", dist.OneHotCategorical(WEIGHTS))
        observe(torch.cat([z.unsqueeze(-1), y], -1).sum(-1), x)


def mixed_values(x: Tensor) -> None:
    """The values of the discrete latent are averaged, which has no effect when it has one value."""
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.Categorical(WEIGHTS))
        values = MEANS[y].reshape(-1, *y.shape[-1:])
        observe(latent() + values - values.mean(0) + values.mean(0).detach() * y, x)


def scaled(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z, y = latent(), pyro.sample("y", dist.Categorical(WEIGHTS))
        with pyro.poutine.scale(scale=0.5):
            observe(z + MEANS[y], x)


def masked_distribution(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.Categorical(WEIGHTS).expand([x.shape[0]]).mask(x[:, 0] > 0))
        observe(latent() + MEANS[y], x)


def dependent_support(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.Categorical(torch.tensor([1 - 1e-6, 1e-6])))
        observe(pyro.sample("z", dist.Uniform(0.0, torch.tensor([1.0, 2.0])[y])), x)


def factor_outside(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.Bernoulli(0.5))
        observe(latent() + y, x)
    pyro.factor("penalty", -y.sum(-1))


def crossed_plates(x: Tensor) -> None:
    rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 4, dim=-3)
    with pyro.plate("data", x.shape[0], dim=-1):
        z = latent()
        with rows:
            a = pyro.sample("a", dist.Bernoulli(0.3))
        with columns:
            b = pyro.sample("b", dist.Bernoulli(0.6))
        with rows, columns:
            pyro.sample("x", dist.Normal(z + a * b, 1.0), obs=x[:, 0].expand(4, 3, -1))


REFUSED: dict[str, tuple[Callable[[Tensor], None], tuple[str, ...]]] = {
    "outside the plate": (
        outside,
        ("latent site 'y' is discrete (Categorical)", "outside plate 'data'", "move it inside"),
    ),
    "infinitely many values": (infinite, ("latent site 'y' is discrete (Poisson)", "cannot be listed", "pyro.factor")),
    "only discrete latents": (only_discrete, ("all latents in plate 'data' are discrete (y)", "infer_discrete")),
    "concatenated": (concatenated, ("take all their values at once", "same number of dimensions", "torch.cat")),
    "mixed values": (mixed_values, ("changes when the discrete latents ['y']", "broadcast")),
    "scaled": (scaled, ("site 'x' is scaled", "leave the site unscaled")),
    "a masked distribution": (masked_distribution, ("latent site 'y' is discrete", "mask", "pyro.poutine.mask")),
    "a support that depends on a class": (dependent_support, ("support of latent site 'z'", "fixed support")),
    "a factor outside": (factor_outside, ("site 'penalty' depends on discrete latents", "outside")),
    "crossed plates": (crossed_plates, ("cannot be summed out exactly", "for i in pyro.plate")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    model, facts = REFUSED[case]
    with random_state(0, None), pytest.raises(ModelError) as caught:
        Model(model).setup(Batch((X,)), N)
    assert [fact for fact in facts if fact not in str(caught.value)] == []


def test_an_observed_class_outside_the_support() -> None:
    """A value that marks a missing class is accepted where it is masked, and only there."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            label = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y, obs_mask=y != -1)
            observe(latent() + MEANS[label], x)

    labels = torch.tensor([0, -1, 2, 1, -1, -1])
    program = Model(model).setup(Batch((X, labels)), N)
    program.check_data(Batch((X, labels)))
    with pytest.raises(DataError, match="observed site 'y_observed'"):
        program.check_data(Batch((X, labels.masked_fill(labels == 2, 5))))


def test_a_missing_continuous_value_is_still_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("x", dist.Normal(latent(), 1.0), obs=x[:, 0], obs_mask=x[:, 0] > 0)

    with pytest.raises(ModelError, match="site 'x' has obs_mask="):
        Model(model).setup(Batch((X,)), N)
