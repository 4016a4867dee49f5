"""Posteriors that are not finite or not plausible: errors and warnings name the observations."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, TransformedDistribution

import amortvi as avi
from amortvi._util import memory
from amortvi.data import Batch, TensorObservations
from amortvi.errors import AmortviWarning, NonFiniteError
from amortvi.posterior import Posterior
from amortvi.posterior.evaluation import evaluate
from amortvi.posterior.non_finite import implausible_rows, listed
from amortvi.posterior.refinement import RefineOptions, refine
from tests.exact import one_latent, with_parameters
from tests.families.network_family import NetworkFamily

DOUBLE = torch.float64
LABELS = list("abcdefgh")
LEVELS = [0.1, 0.9]


def normal(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def with_positive_latent(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(rate, 1.0).to_event(1), obs=x)


class Failing(nn.Module):
    """An encoder whose output is multiplied by the first feature, so that it fails where that is extreme."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * x[:, :1].square()


def failing(family: Any = "full", model: Any = normal, extreme: float = 1e25) -> tuple[avi.AmortizedVI, pd.DataFrame]:
    """Return an estimator and eight observations, of which those at positions 2, 5 and 7 are extreme."""
    torch.manual_seed(0)
    x = torch.randn(8, 2)
    vi = avi.AmortizedVI(model, Failing(), family).setup(x, seed=0)
    x[[2, 5, 7], 0] = extreme
    return vi, pd.DataFrame(x.numpy(), index=LABELS)


SUMMARIES: dict[str, Callable[[avi.AmortizedVI, Posterior], Any]] = {
    "mean": lambda vi, posterior: posterior.mean,
    "std": lambda vi, posterior: posterior.std,
    "median": lambda vi, posterior: posterior.median,
    "quantiles": lambda vi, posterior: posterior.quantiles(LEVELS),
    "covariance": lambda vi, posterior: posterior.covariance,
    "correlation": lambda vi, posterior: posterior.correlation,
    "site_covariance": lambda vi, posterior: posterior.site_covariance,
    "to_frame": lambda vi, posterior: posterior.to_frame(),
    "sample": lambda vi, posterior: posterior.sample(3, seed=0),
    "resample": lambda vi, posterior: posterior.sample(3, resample=True, seed=0),
    "log_prob": lambda vi, posterior: posterior.log_prob({"z": torch.zeros(8, 2)}),
    "evaluate": lambda vi, posterior: vi.evaluate(posterior=posterior, particles=3, seed=0),
    "predict": lambda vi, posterior: vi.predict(posterior=posterior, draws=3, seed=0),
    "evidence": lambda vi, posterior: avi.evidence(vi, posterior=posterior, draws=30, seed=0),
    "refine": lambda vi, posterior: vi.refine(posterior=posterior, max_steps=2),
    "to_arviz": lambda vi, posterior: vi.to_arviz(posterior=posterior, draws=3, seed=0),
}


@pytest.mark.parametrize("call", SUMMARIES.values(), ids=SUMMARIES.keys())
def test_an_encoder_that_is_not_finite(call: Callable[[avi.AmortizedVI, Posterior], Any]) -> None:
    vi, frame = failing()
    expected = r"the posterior is not finite for 3 of 8 observations \(at positions 2, 5, 7: 'c', 'f', 'h'\) of x: "
    with pytest.raises(NonFiniteError, match=expected):
        call(vi, vi.posterior(frame))
    posterior = vi.posterior(frame)
    assert posterior.not_finite().nonzero().flatten().tolist() == [2, 5, 7]
    ordinary = posterior.select(~posterior.not_finite())
    assert list(ordinary.index) == ["a", "b", "d", "e", "g"]
    assert ordinary.mean["z"].isfinite().all()


@pytest.mark.parametrize("family", ["diagonal", "full", "low_rank", "flow"])
@pytest.mark.parametrize("limit", [1, 2**22])
def test_any_family_in_chunks_of_any_size(family: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vi, frame = failing(family)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    for call in (SUMMARIES["mean"], SUMMARIES["sample"], SUMMARIES["evaluate"]):
        with pytest.raises(NonFiniteError, match="3 of 8 observations"):
            call(vi, vi.posterior(frame))
    with pytest.raises(NonFiniteError, match=r"1 of 1 observations \(at position 0: 'f'\)"):
        vi.posterior(frame).select(5).mean  # noqa: B018  # the property computes


@pytest.mark.parametrize("family", ["diagonal", "full", "low_rank"])
def test_a_head_that_overflows(family: str) -> None:
    """The context is finite, but not its product with the weights."""
    vi, frame = failing(family, extreme=1e19)
    with torch.no_grad():
        vi.guide.family.to_parameters.weight[:2].fill_(10.0)
        vi.encoder.layer.weight.zero_()
    for call in (SUMMARIES["mean"], SUMMARIES["evaluate"], SUMMARIES["to_arviz"]):
        with pytest.raises(NonFiniteError, match=r"the posterior is not finite for 3 of 8 .* 'c', 'f', 'h'"):
            call(vi, vi.posterior(frame))


def test_a_family_that_cannot_factorize_a_matrix() -> None:
    class Correlated(avi.families.Family):
        def __init__(self) -> None:
            super().__init__()

        def build(self) -> None:
            pass

        def forward(self, context: Tensor) -> Distribution:
            rho = context[:, 0] / context[:, 0].detach().clamp(-2.0, 2.0).abs().clamp(min=1.0)
            one = torch.ones_like(rho)
            matrix = torch.stack([torch.stack([one, rho], -1), torch.stack([rho, one], -1)], -1)
            return MultivariateNormal(torch.zeros_like(matrix[..., 0]), scale_tril=torch.linalg.cholesky(matrix))

    encoder = nn.Linear(2, 1)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[1.0, 0.0]]))
        encoder.bias.zero_()
    x = torch.zeros(6, 2)
    vi = avi.AmortizedVI(normal, encoder, Correlated).setup(x, seed=0)
    x[4, 0] = 9.0  # a correlation of 4.5
    assert vi.posterior(x[:4]).mean["z"].shape == (4, 2)
    for call in (SUMMARIES["mean"], SUMMARIES["evaluate"]):
        with pytest.raises(
            NonFiniteError, match=r"the posterior is not finite for 1 of 6 .*at position 4\).* Correlated"
        ):
            call(vi, vi.posterior(x))


def given(model: Any, x: Tensor, parameters: Tensor, family: Any = avi.families.Diagonal) -> Posterior:
    """Return posteriors with these parameters, ``(N, P)``, as refinement returns them, with labels."""
    vi = with_parameters(model, parameters[0], x, family)
    posterior = vi.posterior(x)
    index = pd.Index(LABELS[: len(x)])
    posterior.observations = TensorObservations(Batch((x,), context=parameters), "x", index)
    return posterior


def positive(locs: list[float], scales: list[float], dtype: torch.dtype = DOUBLE) -> Posterior:
    """Return log-normal posteriors."""
    parameters = torch.tensor([locs, scales], dtype=dtype).T
    parameters[:, 1].log_()
    return given(
        one_latent(dist.LogNormal(torch.zeros((), dtype=dtype), 1.0)), torch.zeros(len(locs), dtype=dtype), parameters
    )


def test_values_beyond_the_range_of_the_type() -> None:
    posterior = positive([0.0, 2000.0, 0.0, -2000.0], [1.0] * 4)
    for quantity in (lambda: posterior.mean, lambda: posterior.std, lambda: posterior.quantiles(LEVELS)):
        with pytest.raises(
            NonFiniteError, match=r"in the \w+( \w+)? of 'z' for 1 of 4 observations \(at position 1: 'b'\)"
        ):
            quantity()
    with pytest.raises(NonFiniteError, match=r"in the draws of 'z' for 1 of 4"):
        posterior.sample(3, seed=0)
    assert posterior.select([0, 2]).mean["z"].isfinite().all()
    huge = torch.tensor([[0.0, 0.0], [1e25, 0.0], [0.0, 0.0]])
    posterior = given(one_latent(dist.Normal(0.0, 1.0)), torch.zeros(3), huge)
    with pytest.raises(NonFiniteError, match="in the kl of the posterior for 1 of 3"):
        evaluate(posterior, particles=3)


def test_single_precision_does_not_limit_the_quadrature() -> None:
    """With a log scale of 5, the square of a value at the outermost node exceeds the largest number."""
    posterior = positive([0.0, -80.0], [5.0] * 2, torch.float32)
    with pytest.warns(AmortviWarning, match="negligible probability"):
        mean, std = posterior.mean["z"], posterior.std["z"]
    for found, exponent in ((mean, 12.5), (std, 25.0)):
        torch.testing.assert_close(found, torch.tensor([exponent, exponent - 80]).exp(), rtol=1e-4, atol=0)


def test_moments_that_rest_on_the_tail_cause_a_warning() -> None:
    wide = positive([0.0, 3.0, -40.0], [2.5, 4.0, 3.5])
    expected = r"2 of 3 observations \(at positions 1, 2: 'b', 'c'\)"
    for quantity in (lambda: wide.mean, lambda: wide.std, lambda: wide.to_frame(), lambda: wide.site_covariance):
        with pytest.warns(AmortviWarning, match=expected) as caught:
            quantity()
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert wide.median["z"].shape == wide.quantiles(LEVELS)["z"][0].shape == (3,)
        assert wide.select(0).std["z"].isfinite().all()
        # Close to a bound of the support, the interval is a rounding error and not a sign of a tail.
        model, parameters = one_latent(dist.Beta(torch.ones(()), 1.0)), torch.tensor([[60.0, 0.5], [-60.0, 0.5]])
        near = given(model, torch.zeros(2), parameters)
        assert near.mean["z"].tolist() == pytest.approx([1.0, 0.0])


def test_implausible_posteriors_cause_a_warning() -> None:
    """They are bounded, and their refinement is as good as that of any other."""
    model, x = avi.models.LinearGaussian(torch.eye(2), scale=1.0), torch.zeros(5, 2)
    parameters = torch.zeros(5, 5)
    parameters[1, 2] = 300.0
    parameters[3, 4] = -1e20
    posterior = given(model, x, parameters, avi.families.FullCovariance)
    for quantity in (
        lambda: posterior.mean,
        lambda: posterior.quantiles(LEVELS),
        lambda: posterior.covariance,
    ):
        with pytest.warns(
            AmortviWarning, match=r"2 of 5 observations \(at positions 1, 3: 'b', 'd'\) are impl"
        ) as caught:
            quantity()
        assert caught[0].filename == __file__
    with pytest.warns(AmortviWarning, match="2 of 5 observations"):
        evaluate(posterior, particles=3)
    with pytest.warns(AmortviWarning, match="implausible"):
        assert posterior.std["z"].isfinite().all()
    refined, exact = refine(posterior, None, RefineOptions()), model.posterior(x)
    torch.testing.assert_close(refined.mean["z"], exact.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(refined.covariance, exact.covariance_matrix, rtol=0, atol=0.05)


@pytest.mark.parametrize("known", [True, False])
def test_families_without_bounds_are_checked_too(known: bool) -> None:
    """By their moments if these are known, otherwise by draws."""
    loc, scale = torch.tensor([[0.0], [0.0], [1e9], [3.0]]), torch.tensor([[1.0], [1e7], [1.0], [1e-3]])
    q: Distribution = Independent(Laplace(loc, scale), 1)
    if not known:
        q = TransformedDistribution(q, [])
    state = torch.get_rng_state()
    assert implausible_rows(q).tolist() == [False, True, True, False]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    vi = avi.AmortizedVI(normal, Failing(), NetworkFamily).setup(torch.randn(8, 2), seed=0)
    with pytest.warns(AmortviWarning, match=r"1 of 2 observations \(at position 1\) are implausible"):
        vi.posterior(torch.tensor([[0.1, 0.0], [1e6, 0.0]])).median  # noqa: B018  # the property computes


def test_models_may_exclude_every_draw() -> None:
    def impossible(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)
            pyro.factor("only", torch.where(x > 1, -torch.inf, 0.0))

    vi = with_parameters(impossible, torch.zeros(2), torch.zeros(4), avi.families.Diagonal)
    table = vi.evaluate(torch.tensor([0.0, 2.0, 0.0]), particles=3, seed=0)
    assert table["elbo"].tolist()[1] == table["iwae"].tolist()[1] == -math.inf
    assert (table["kl"] == 0).all()


def test_lists_are_short() -> None:
    assert listed(torch.ones(9, dtype=torch.bool), None) == "9 of 9 observations (at positions 0, 1, 2, ...)"
    numbers = pd.Index([40, 50, 60])
    assert listed(torch.tensor([False, True, True]), numbers) == "2 of 3 observations (at positions 1, 2: 50, 60)"
