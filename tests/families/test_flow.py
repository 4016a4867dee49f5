"""The normalizing flow: its density, its use without closed forms, and its dependency."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch.distributions import Independent, Normal

import amortvi as avi
from amortvi.errors import FamilyError, MissingDependencyError, OptionError
from amortvi.families import Flow, covariance, kl_to_standard_normal, marginals, moments
from amortvi.families.base import INITIAL_LOG_SCALE
from tests.exact import linear_gaussian

DOUBLE = torch.float64


def flow(dim: int = 3, **options: object) -> Flow:
    torch.manual_seed(0)
    return Flow(**{"transforms": 2, "hidden": [16], **options}).setup(dim, 2).double()


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_density_is_the_change_of_variables(dim: int) -> None:
    """The log-determinant of autograd's Jacobian of the map from noise to draw."""
    family = flow(dim)
    q = family(torch.randn(2, dtype=DOUBLE))
    noise = torch.randn(dim, dtype=DOUBLE) * 0.2
    z = q.transform(noise)
    jacobian = torch.autograd.functional.jacobian(q.transform, noise)
    base = Independent(Normal(torch.zeros(dim, dtype=DOUBLE), torch.tensor(INITIAL_LOG_SCALE, dtype=DOUBLE).exp()), 1)
    expected = base.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(z), expected)


def test_last_draw_is_scored_without_the_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    q = flow()(torch.randn(4, 2, dtype=DOUBLE))
    z = q.rsample((5,))
    expected = q.log_prob(z.clone())
    monkeypatch.setattr(type(q.transform), "inv", property(lambda self: pytest.fail("an inverse")))
    torch.testing.assert_close(q.log_prob(z), expected)


def test_nothing_is_known_in_closed_form() -> None:
    q = flow()(torch.randn(4, 2, dtype=DOUBLE))
    for closed_form in (moments, covariance, marginals, kl_to_standard_normal):
        assert closed_form(q) is None


def test_the_posterior_is_not_gaussian() -> None:
    """The scale of a coordinate depends on the others, which no Gaussian can represent."""
    family = flow(2, transforms=2)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.mul_(3.0)
    q = family(torch.zeros(2, dtype=DOUBLE))
    torch.manual_seed(0)
    z = q.sample((50_000,))
    whitened = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.mT))).mT
    squares = whitened.square() - 1
    # Squares of independent normal coordinates are uncorrelated, and their fourth moments are three.
    dependence = (squares[:, 0] * squares[:, 1]).mean() / ((squares[:, 0] * squares[:, 1]).std() / 50_000**0.5)
    kurtosis = (whitened**4).mean(0) - 3
    assert abs(dependence) > 10 or kurtosis.abs().max() > 0.5


def test_copies_and_pickles() -> None:
    family = flow()
    context, z = torch.randn(4, 2, dtype=DOUBLE), torch.randn(4, 3, dtype=DOUBLE)
    expected = family(context).log_prob(z)
    for other in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        assert torch.equal(other(context).log_prob(z), expected)


@pytest.mark.parametrize("options", [{"transforms": 0}, {"hidden": 8}, {"hidden": [8, 0]}])
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Flow(**options)


# ------------------------------------------------------------------------------------------------------ end to end


@pytest.fixture(scope="module")
def fitted() -> tuple[avi.AmortizedVI, torch.Tensor]:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(100, seed=0)
    torch.manual_seed(0)
    encoder = avi.encoders.MLP(3, [])
    vi = avi.AmortizedVI(model, encoder, Flow(transforms=2, hidden=[16]), freeze_model=True)
    return vi.fit(x, epochs=40, batch_size=25, lr=1e-2, seed=0, progress=False), x


def test_a_fitted_flow_approximates_the_exact_posterior(fitted: tuple[avi.AmortizedVI, torch.Tensor]) -> None:
    vi, x = fitted
    model = linear_gaussian(2, 3, dtype=torch.float32)
    exact = model.posterior(x)
    initial = exact.mean / exact.variance.sqrt()  # the error of a posterior that ignores the data
    error = (vi.posterior(x).mean["z"] - exact.mean) / exact.variance.sqrt()
    assert error.square().mean() < 0.2 * initial.square().mean()
    gap = model.log_evidence(x).mean() - float(vi.evaluate(x, particles=200, seed=0)["elbo"].mean())
    assert gap < 0.4


@pytest.mark.filterwarnings("ignore:the resampled draws:amortvi.errors.AmortviWarning")
def test_everything_but_closed_forms_works(fitted: tuple[avi.AmortizedVI, torch.Tensor]) -> None:
    vi, x = fitted
    posterior = vi.posterior(x[:5])
    draws = posterior.sample(20, seed=0)
    assert posterior.log_prob(draws).isfinite().all()
    assert posterior.to_frame().shape == (10, 5)
    assert posterior.sample(5, resample=True, proposals=500, seed=0)["z"].shape == (5, 5, 2)
    with pytest.raises(FamilyError, match=r"covariance of a Flow posterior is not known .* sample\(1000\)"):
        _ = posterior.covariance


def test_a_flow_can_be_refined_only_in_another_family(fitted: tuple[avi.AmortizedVI, torch.Tensor]) -> None:
    vi, x = fitted
    for family in (None, "flow"):
        with pytest.raises(FamilyError, match="refine needs a family whose posteriors have parameters"):
            vi.refine(x[:5], family)
    refined = vi.refine(x[:5], "full")
    exact = linear_gaussian(2, 3, dtype=torch.float32).posterior(x[:5])
    torch.testing.assert_close(refined.mean["z"], exact.mean, rtol=0, atol=0.05)


# ------------------------------------------------------------------------------------------------------ dependency


PROGRAM = """
import warnings
import pyro, torch
from torch.distributions import Distribution
pyro.enable_validation({validation})
before = Distribution._validate_args, torch.distributions.Normal._validate_args, pyro.distributions.is_validation_enabled()
import amortvi as avi
avi.families.Flow().setup(3, 2)(torch.zeros(4, 2)).rsample()
after = Distribution._validate_args, torch.distributions.Normal._validate_args, pyro.distributions.is_validation_enabled()
assert before == after == ({validation},) * 3, (before, after)
warnings.simplefilter("error")
import zuko
flow = zuko.flows.NSF(3, 2)(torch.zeros(2))  # works as before, and without a warning
assert flow.log_prob(flow.sample((4,))).shape == (4,)
"""


@pytest.mark.parametrize("validation", [True, False])
def test_importing_zuko_changes_no_validation(validation: bool) -> None:
    program = PROGRAM.format(validation=validation)
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_a_missing_zuko_is_reported_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules, "zuko", "zuko.flows"]:
        if module.partition(".")[0] == "zuko":
            monkeypatch.setitem(sys.modules, module, None)  # importing it then fails
    family = Flow()  # can be chosen, shown and compared
    assert repr(family) == "Flow()"
    with pytest.raises(MissingDependencyError, match=r"the family Flow needs zuko, .* 'amortvi\[flows\]'"):
        family.setup(3, 2)
