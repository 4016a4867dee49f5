"""Latent sites outside the data plate: what is read of them, and the values they have in a run."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.data import Batch
from amortvi.errors import ModelError
from amortvi.model import Model, sample_globals

X = torch.randn(7, generator=torch.Generator().manual_seed(0))


def program(x: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("topics", 4, dim=-2):
        words = pyro.sample("words", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(words[0, 0, 0], rate))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    pyro.factor("penalty", -rate)


def set_up(model: Any, x: Tensor = X) -> Model:
    return Model(model).setup(Batch((x,)), x.shape[0])


def test_the_structure() -> None:
    structure = set_up(program).structure
    assert [(site.name, tuple(site.shape)) for site in structure.globals] == [("rate", ()), ("words", (4, 1, 3))]
    assert [site.name for site in structure.latents.sites] == ["z"]
    assert structure.globals[1].labels[:2] == ["words[0, 0, 0]", "words[0, 0, 1]"]
    assert structure.plate == "data"


def test_a_prior_that_depends_on_a_global_latent_is_not_standard_normal() -> None:
    def model(x: Tensor, *, depends: bool) -> None:
        level = pyro.sample("level", dist.Normal(-9.0, 1.0))
        with pyro.plate("data", x.shape[0]):
            # On almost every example, the mean is exactly zero.
            z = pyro.sample("z", dist.Normal(level.relu() if depends else 0.0, 1.0))
            pyro.sample("x", dist.Normal(z + level, 1.0), obs=x)

    found = [
        set_up(lambda x, depends=depends: model(x, depends=depends)).structure.standard_normal_prior
        for depends in (True, False)
    ]
    assert found == [False, True]


def test_the_terms_of_a_run() -> None:
    model, z = set_up(program), torch.randn(3, 7)
    theta = {"rate": torch.tensor(0.7), "words": torch.softmax(torch.randn(4, 1, 3), -1)}
    scores = model.log_probs(Batch((X,)), {"z": z}, theta=theta)
    prior = dist.Normal(theta["words"][0, 0, 0], 0.7).log_prob(z)
    torch.testing.assert_close(scores.local["z"], prior)
    shared = dist.Gamma(2.0, 1.0).log_prob(theta["rate"]) + dist.Dirichlet(torch.ones(3)).log_prob(theta["words"]).sum()
    torch.testing.assert_close(scores.global_log_prob, shared - 0.7)
    # The local density leaves the global terms out, and takes the values from the point.
    model.global_point = lambda: theta
    torch.testing.assert_close(model.log_joint(Batch((X,)), z.unsqueeze(-1)), prior + dist.Normal(z, 1.0).log_prob(X))
    other = {**theta, "rate": torch.tensor(2.0)}
    with model.inference_mode(other), model.inference_mode():
        inside = model.log_joint(Batch((X,)), z.unsqueeze(-1))
    expected = dist.Normal(theta["words"][0, 0, 0], 2.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(X)
    torch.testing.assert_close(inside, expected)


def test_a_density_needs_values() -> None:
    with pytest.raises(ModelError, match="global latent 'rate' needs a value: pass theta="):
        set_up(program).log_probs(Batch((X,)), {"z": torch.zeros(1, 7)})


def test_prior_draws() -> None:
    model = set_up(program)
    model.global_point = lambda: {"rate": torch.tensor(5.0), "words": torch.ones(4, 1, 3) / 3}
    with torch.random.fork_rng(), model.inference_mode():
        torch.manual_seed(0)
        drawn = sample_globals(model, Batch((X,)), 1000)
        assert drawn["words"].shape == (1000, 4, 1, 3)
        # Gamma(2, 1) has mean and variance 2.
        assert float(drawn["rate"].mean()) == pytest.approx(2.0, abs=5 * (2 / 1000) ** 0.5)
        at_point = model.simulate(Batch((X,)), None, 1000)
        assert float(at_point["z"].std()) == pytest.approx(5.0, rel=5 / 14000**0.5)
        each = model.simulate(Batch((X,)), None, 1000, theta=drawn)
    scaled = (each["z"] - drawn["words"][:, 0, 0, :1]) / drawn["rate"].unsqueeze(-1)
    assert float(scaled.std()) == pytest.approx(1.0, rel=5 / 14000**0.5)
