"""The normalizing flow: its density, its use without closed forms, and its dependency."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import amortvi as avi
from amortvi.errors import MissingDependencyError
from amortvi.families import Family, Flow, Mixture, Structured, TopDown
from amortvi.families.gate import Gate
from tests.exact import linear_gaussian

DOUBLE = torch.float64


KINDS = pytest.mark.parametrize("kind", ["spline", "affine"])


def flow(dim: int, kind: str = "spline", *, perturbed: bool = True) -> Flow:
    torch.manual_seed(0)
    family = Flow(transforms=2, kind=kind, hidden=[16], bins=4).setup(dim, 2).double()
    with torch.no_grad():
        for parameter in family.layers.parameters() if perturbed else ():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return family


@KINDS
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_density_is_the_change_of_variables(dim: int, kind: str) -> None:
    """The log-determinant of autograd's Jacobian of the map from noise to draw."""
    q = flow(dim, kind)(torch.randn(2, dtype=DOUBLE))
    noise = torch.randn(dim, dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(lambda value: q.from_noise(value).vector, noise)
    base = Independent(Normal(torch.zeros(dim, dtype=DOUBLE), 1.0), 1)
    expected = base.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(q.from_noise(noise).vector.clone()), expected)


@KINDS
def test_starts_as_its_gaussian(kind: str) -> None:
    family, context = flow(3, kind, perturbed=False), torch.randn(4, 2, dtype=DOUBLE)
    q = family(context)
    z = torch.randn(10, 4, 3, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), q.gaussian.log_prob(z))


@KINDS
def test_a_locked_flow_is_its_gaussian_and_settles_without_a_change(kind: str) -> None:
    family, context = flow(3, kind), torch.randn(4, 2, dtype=DOUBLE)
    z = torch.randn(4, 3, dtype=DOUBLE)
    family.unlock(0.0)
    locked = family(context).log_prob(z)
    torch.testing.assert_close(locked, family(context).gaussian.log_prob(z))
    family.unlock(0.5)
    before = family(context).log_prob(z)
    assert not torch.allclose(before, locked, atol=1e-3)
    family.settle()
    torch.testing.assert_close(family(context).log_prob(z), before)


SMALL = Flow(transforms=2, hidden=[16], bins=4)


@pytest.mark.parametrize("family", [Structured({"b": SMALL}), Mixture(2, SMALL), TopDown({"b": SMALL})], ids=repr)
def test_a_flow_in_another_family_is_locked_and_settles_without_a_change(family: Family) -> None:
    torch.manual_seed(0)
    family.setup(5, 2, {"a": torch.Size([2]), "b": torch.Size([3])}).double()
    gates = [module for module in family.modules() if isinstance(module, Gate)]
    context, z = torch.randn(2, 4, 2, dtype=DOUBLE), torch.randn(2, 4, 5, dtype=DOUBLE)

    def perturbed() -> Tensor:
        with torch.no_grad():
            for parameter in (parameter for gate in gates for parameter in gate.parameters()):
                parameter.add_(0.4 * torch.randn_like(parameter))
        return family(context).log_prob(z)

    family.unlock(0.0)
    assert all(gate.strength == 0 for gate in gates)
    locked = perturbed()
    torch.testing.assert_close(perturbed(), locked)
    family.unlock(0.5)
    before = family(context).log_prob(z)
    assert not torch.allclose(before, locked, atol=1e-3)
    family.settle()
    assert all(gate.strength == 1 for gate in gates)
    torch.testing.assert_close(family(context).log_prob(z), before)
    assert not torch.allclose(perturbed(), before, atol=1e-3)


def test_last_draw_is_scored_without_the_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    q = flow(3)(torch.randn(4, 2, dtype=DOUBLE))
    z = q.rsample((5,))
    expected = q.log_prob(z.clone())
    monkeypatch.setattr(type(q.transforms[0]), "inv", property(lambda self: pytest.fail("an inverse")))
    torch.testing.assert_close(q.log_prob(z), expected)


@KINDS
def test_the_posterior_is_not_gaussian(kind: str) -> None:
    q = flow(2, kind)(torch.zeros(2, dtype=DOUBLE))
    # The log density of a Gaussian has a constant Hessian.
    one, other = (
        torch.autograd.functional.hessian(q.log_prob, z) for z in torch.tensor([[0.0, 0.0], [0.0, 0.3]]).double()
    )
    assert (one - other).abs().max() > 1e-3 * one.abs().max()


def test_a_fitted_flow_approximates_the_exact_posterior() -> None:
    model = linear_gaussian(2, 3, dtype=torch.float32)
    x = model.simulate(100, seed=0)
    torch.manual_seed(0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), Flow(transforms=2, hidden=[16]), freeze_model=True)
    vi.fit(x, epochs=150, batch_size=25, lr=1e-2, seed=0, progress=False)
    exact = model.posterior(x)
    initial = exact.mean / exact.variance.sqrt()  # the error of a posterior that ignores the data
    error = (vi.posterior(x).mean["z"] - exact.mean) / exact.variance.sqrt()
    assert error.square().mean() < 0.2 * initial.square().mean()
    gap = model.log_evidence(x).mean() - float(vi.evaluate(x, particles=200, seed=0)["elbo"].mean())
    assert -0.05 < gap < 0.05


PROGRAM = """
import warnings
import pyro, torch
from torch.distributions import Distribution, Normal
import amortvi as avi
avi.families.Flow().setup(3, 2)(torch.zeros(4, 2)).rsample()
assert Distribution._validate_args and Normal._validate_args and pyro.distributions.is_validation_enabled()
warnings.simplefilter("error")
import zuko
flow = zuko.flows.NSF(3, 2)(torch.zeros(2))  # works as before, and without a warning
assert flow.log_prob(flow.sample((4,))).shape == (4,)
"""


def test_importing_zuko_changes_no_validation() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True)


def test_a_missing_zuko_is_reported_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)  # importing it then fails
    family = Flow()  # can be chosen, shown and compared
    with pytest.raises(MissingDependencyError, match=r"the family Flow needs zuko, .* 'amortvi\[flows\]'"):
        family.setup(3, 2)
