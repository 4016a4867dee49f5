"""What each latent number says of the observations, against closed forms; and the warning of dead ones."""

import math
import warnings
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi import _chunks
from amortvi._util.modes import random_state
from amortvi.errors import AmortviWarning
from amortvi.families.base import Family
from amortvi.diagnostics.latents.usage import usage, warn_of_dead_latents
from tests.exact import held, linear_gaussian, one_latent, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(300, seed=1)
ROWS = torch.zeros(40, dtype=torch.float64)
MEAN, SCALE = 0.7, 0.4


def kl_of_normals(mean: float, scale: float, prior_mean: float = 0.0, prior_scale: float = 1.0) -> float:
    q, p = torch.distributions.Normal(mean, scale), torch.distributions.Normal(prior_mean, prior_scale)
    return float(torch.distributions.kl_divergence(q, p))


def measured(vi, x, draws=400):
    with random_state(0):
        return usage(vi.generative, vi.posterior(x), draws)


def with_posterior(prior: dist.Distribution, mean: float = MEAN, scale: float = SCALE, dim: int = 1):
    """The estimator whose posterior of the unconstrained latent is ``N(mean, scale^2)`` in each number."""
    parameters = torch.tensor([mean] * dim + [math.log(scale)] * dim, dtype=torch.float64)
    return with_parameters(one_latent(prior), parameters, ROWS, avi.families.Diagonal)


@pytest.mark.parametrize("family", [avi.families.Diagonal, avi.families.FullCovariance])
def test_linear_gaussian_is_exact(family):
    found = measured(solved(MODEL, family), X)
    posterior = MODEL.posterior(X)
    variance = posterior.variance if family is avi.families.FullCovariance else 1 / MODEL.precision().diagonal()
    kl = 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).mean(0)
    torch.testing.assert_close(found.mean_covariance, posterior.mean.mT.cov(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.kl, kl, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.mean, posterior.mean.mean(0))
    expected = posterior.mean.var(0, correction=0) + variance.expand_as(posterior.mean).mean(0)
    torch.testing.assert_close(found.variance, expected, rtol=1e-6, atol=1e-8)
    assert found.labels == ("z[0]", "z[1]", "z[2]")
    assert bool(found.active.all())
    assert not bool(found.dead.any())


def test_a_column_without_loading_is_dead():
    W = MODEL.W.clone()
    W[:, 1] = 0
    model = avi.models.LinearGaussian(W, scale=0.8)
    found = measured(solved(model), model.simulate(300, seed=1))
    assert found.dead.tolist() == [False, True, False]
    assert found.active.tolist() == [True, False, True]
    assert found.active_directions == 2


def test_directions_find_what_the_axes_hide():
    """Both numbers repeat one thing: each is active, and there is one direction."""
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64), scale=0.5)
    found = measured(solved(model), model.simulate(300, seed=1))
    assert found.active.tolist() == [True, True]
    assert found.active_directions == 1


PRIORS: dict[str, tuple[Callable[[], dist.Distribution], float]] = {
    "another normal": (lambda: dist.Normal(torch.tensor(-0.5).double(), 2.0), kl_of_normals(MEAN, SCALE, -0.5, 2.0)),
    # Its unconstrained number is the logarithm, which is normal.
    "positive": (lambda: dist.LogNormal(torch.tensor(0.3).double(), 0.6), kl_of_normals(MEAN, SCALE, 0.3, 0.6)),
    "event dimensions": (
        lambda: dist.Normal(torch.tensor([0.2]).double(), 1.5).to_event(1),
        kl_of_normals(MEAN, SCALE, 0.2, 1.5),
    ),
    "multivariate normal": (
        lambda: dist.MultivariateNormal(torch.tensor([0.2]).double(), torch.tensor([[2.25]]).double()),
        kl_of_normals(MEAN, SCALE, 0.2, 1.5),
    ),
    # A KL does not change with the variable: between two logistic-normal laws and their unconstrained numbers.
    "interval": (
        lambda: dist.TransformedDistribution(
            dist.Normal(torch.tensor(0.5).double(), 1.2), [dist.transforms.SigmoidTransform()]
        ),
        kl_of_normals(MEAN, SCALE, 0.5, 1.2),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_any_elementwise_prior(name):
    make, expected = PRIORS[name]
    found = measured(with_posterior(make()), ROWS)
    # All are quadratic in the unconstrained number, of which the draws have the right moments.
    assert float(found.kl) == pytest.approx(expected, abs=1e-6)


def test_a_prior_that_is_not_quadratic():
    """Gamma(2, 2): the log density of u = log(x) is 2 u - 2 exp(u) + log 4, and E exp(u) is known."""
    found = measured(with_posterior(dist.Gamma(torch.tensor(2.0).double(), 2.0)), ROWS)
    expected = -(0.5 * math.log(2 * math.pi * math.e) + math.log(SCALE))
    expected -= 2 * MEAN - 2 * math.exp(MEAN + SCALE**2 / 2) + math.log(4)
    # The spread of 2 exp(u), about 2, over 40 x 400 draws; their right moments take most of it away.
    assert float(found.kl) == pytest.approx(expected, abs=5 * 2 / math.sqrt(40 * 400))


def test_moments_of_the_prior():
    found = measured(with_posterior(dist.Normal(torch.tensor(-0.5).double(), 2.0)), ROWS)
    assert float(found.prior_mean) == pytest.approx(-0.5, abs=5 * 2 / math.sqrt(1000))
    assert float(found.prior_variance) == pytest.approx(4, abs=5 * 4 * math.sqrt(2 / 1000))


def hierarchical(x):
    with pyro.plate("data", x.shape[0]):
        top = pyro.sample("top", dist.Normal(x.new_zeros(()), 1.0))
        z = pyro.sample("z", dist.Normal(top, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_prior_on_another_latent_counts_as_it_is_marginally():
    """z given top is N(top, 1), and so N(0, 2) by itself: with top it has no part in, a posterior N(0, 2) is the prior."""
    parameters = torch.tensor([MEAN, 0.0, math.log(SCALE), 0.5 * math.log(2)], dtype=torch.float64)
    vi = with_parameters(hierarchical, parameters, ROWS, avi.families.Diagonal)
    found = measured(vi, ROWS)
    assert float(found.kl[0]) == pytest.approx(kl_of_normals(MEAN, SCALE), abs=0.02)
    # The mean density over 25 runs is log-biased by its relative variance over twice their number: 0.15 / 25 at most.
    assert -0.005 < float(found.kl[1]) < 0.02
    assert float(found.prior_variance[1]) == pytest.approx(2, abs=5 * 2 * math.sqrt(2 / 1000))
    # Given top, as drawn from its narrow posterior, z would seem to lose half a nat.
    conditional = kl_of_normals(0.0, math.sqrt(2), MEAN, 1.0)
    assert conditional > 0.3


def with_covariates(x, c):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(3 * c, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(0 * z, 1.0).to_event(1), obs=x)


class RepeatsPrior(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.cat([3 * c + self.shift, torch.zeros_like(c)], dim=-1)


@pytest.mark.parametrize(("shift", "dead"), [(0.0, True), (0.5, False)])
def test_a_posterior_that_repeats_what_covariates_say_is_dead(shift, dead):
    c = torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (torch.zeros_like(c), c)
    found = measured(held(with_covariates, RepeatsPrior(shift), avi.families.Diagonal, x), x)
    assert bool(found.active)  # by the variance of its mean, which is the prior's
    assert float(found.kl) == pytest.approx(shift**2 / 2, abs=1e-6)
    assert bool(found.dead) is dead


def test_a_joint_prior_has_no_kl_of_one_number():
    found = measured(with_posterior(dist.Dirichlet(torch.full((3,), 2.0).double()), dim=2), ROWS)
    assert bool(found.kl.isnan().all())
    # The posterior does not differ between observations, which is what is left to tell by.
    assert bool(found.dead.all())


class Laplace(Family):
    """States nothing in closed form."""

    def __init__(self, dim: int, context_features: int, *, head: bool = True) -> None:
        super().__init__(dim, context_features, num_parameters=2 * dim, head=head)

    def distribution(self, parameters: Tensor):
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


@pytest.mark.parametrize("draws", [50, 200, 1000])
def test_a_family_without_closed_forms(draws):
    """Constant posteriors: their KL in closed form, and no variance of means but that of draws."""
    parameters = torch.tensor([MEAN, math.log(SCALE)], dtype=torch.float64)
    rows = torch.zeros(2000, dtype=torch.float64)
    vi = with_parameters(one_latent(dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)), parameters, rows, Laplace)
    found = measured(vi, rows, draws)
    variance = 2 * SCALE**2
    entropy = 1 + math.log(2 * SCALE)
    expected = -entropy + 0.5 * math.log(2 * math.pi) + 0.5 * (MEAN**2 + variance)
    # By spacings, a Laplace's entropy is off by a few hundredths of a nat.
    assert float(found.kl) == pytest.approx(expected, abs=0.045)
    assert float(found.variance) == pytest.approx(variance, rel=0.05)
    noise = variance / draws
    assert abs(float(found.mean_variance)) < 5 * noise * math.sqrt(2 / 2000) + 1e-12


def test_a_dead_number_of_a_family_without_closed_forms_is_found():
    """Close to N(0, 1): a Student's t with many degrees of freedom."""

    class Student(Laplace):
        def distribution(self, parameters: Tensor):
            loc, log_scale = parameters.chunk(2, dim=-1)
            return dist.StudentT(torch.tensor(50.0).to(loc), loc, log_scale.exp()).to_event(1)

    parameters = torch.zeros(2, dtype=torch.float64)
    rows = torch.zeros(500, dtype=torch.float64)
    vi = with_parameters(one_latent(dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)), parameters, rows, Student)
    assert bool(measured(vi, rows, 200).dead)


def test_a_posterior_at_the_edge_of_its_support_is_no_error():
    """Draws of a share that round to one: the fit is over by then, and its end is no place to fail."""
    found = measured(with_posterior(dist.Beta(torch.tensor(2.0).double(), 3.0), mean=60.0), ROWS)
    assert float(found.kl) > 10
    assert not bool(found.dead)


def test_pieces_are_put_together(monkeypatch):
    whole = measured(solved(MODEL), X)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 64)
    torch.testing.assert_close(measured(solved(MODEL), X).mean_covariance, whole.mean_covariance)


# --------------------------------------------------------------------------------------------------------- the warning


class Learns(PyroModule):
    """A model with a parameter, whose second latent the data do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))
            pyro.sample("x", dist.Normal(self.weight * z[..., :1], 0.5).to_event(1), obs=x)


class OneDead(nn.Module):
    """Says something of the first latent, and the prior of the second."""

    def __init__(self, second: float = 0.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.stack([self.gain * x.sum(-1), self.second * x[:, 0]], dim=-1)
        return torch.cat([mean, torch.tensor([-1.0, 0.0]).expand_as(mean)], dim=-1)


@pytest.fixture
def judged_at_once(monkeypatch):
    """A fit of one epoch that changes nothing is judged all the same."""
    monkeypatch.setattr("amortvi.diagnostics.latents.usage.FEWEST_STEPS", 1)


def fit(model, encoder, x, *, freeze_model=False):
    def family(dim, context):
        return avi.families.Diagonal(dim, context, head=False)

    vi = avi.AmortizedVI(model, encoder, family, freeze_model=freeze_model)
    return vi.fit(x, epochs=1, lr=1e-30, progress=False, seed=0)


DATA = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("form", ["tensor", "dataset", "shuffled loader"])
def test_fit_warns_of_a_dead_latent(form):
    dataset = TensorDataset(DATA)
    # The tuple of a TensorDataset is taken apart; a loader of it gives lists of one tensor.
    x = {"tensor": DATA, "dataset": dataset, "shuffled loader": DataLoader(dataset, batch_size=64, shuffle=True)}[form]
    with pytest.warns(AmortviWarning, match=r"1 of 2 latent dimensions are dead: z\[1\]\. .*kl_weight") as caught:
        fit(Learns(), OneDead(), x)
    assert caught[0].filename == __file__.replace(".pyc", ".py")


@pytest.mark.usefixtures("judged_at_once")
def test_many_dead_latents_are_cut_short():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(20), torch.ones(20)).to_event(1))
            pyro.sample("x", dist.Normal(0 * z[..., :2], scale.abs()).to_event(1), obs=x)

    with pytest.warns(AmortviWarning, match=r"20 of 20 .* z\[7\] and 12 more\. Their"):
        fit(model, nn.Linear(2, 40).requires_grad_(False).apply(_zero), DATA)


def _zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize(
    ("model", "encoder", "frozen"),
    [
        (Learns, lambda: OneDead(second=0.5), False),  # nothing is dead
        (Learns, OneDead, True),  # the model is given: the data may say nothing of it
        (lambda: avi.models.LinearGaussian(torch.eye(2), scale=1.0), OneDead, False),  # it has nothing to learn
    ],
)
def test_no_warning_without_reason(model, encoder, frozen):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model(), encoder(), DATA, freeze_model=frozen)


def test_an_encoder_that_starts_at_the_prior_has_to_learn_first():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Learns(), OneDead(), DATA)


@pytest.mark.usefixtures("judged_at_once")
def test_a_network_as_it_starts_is_not_warned_of():
    decoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vi = avi.AmortizedVI(avi.models.VAE(decoder, 8, "normal"), avi.encoders.MLP(2, [16]))
        vi.fit(DATA, epochs=2, progress=False, seed=0)


def test_the_warning_takes_no_random_numbers():
    vi = solved(MODEL)
    state = torch.get_rng_state()
    warn_of_dead_latents(vi.generative, vi.posterior(X))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_joint_fit_that_collapses_is_warned_of():
    """A decoder with a parameter that cannot use its second latent: the posterior comes to be the prior by itself."""
    vi = avi.AmortizedVI(Learns(), avi.encoders.MLP(2, []))
    with pytest.warns(AmortviWarning, match=r"1 of 2 latent dimensions are dead: z\[1\]"):
        vi.fit(DATA, epochs=100, lr=0.03, batch_size=50, progress=False, seed=0)
