"""What is particular to each family, against torch's own distributions."""

from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from amortvi import families
from amortvi.errors import FamilyError, OptionError

GAUSSIANS = {"diagonal": families.Diagonal, "full": families.FullCovariance, "low_rank": families.LowRank(2)}


def _posterior(choice: families.FamilyChoice, dim: int = 5) -> families.Gaussian:
    torch.manual_seed(3)
    family = families.make_family(choice, dim, 4).double()
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.normal_(0, 0.4)
    q = family(torch.randn(6, 4, dtype=torch.float64))
    assert isinstance(q, families.Gaussian)
    return q


@pytest.mark.parametrize("choice", GAUSSIANS.values(), ids=GAUSSIANS.keys())
def test_agrees_with_torch(choice: families.FamilyChoice) -> None:
    q = _posterior(choice)
    reference = MultivariateNormal(q.loc, q.covariance_matrix)
    standard = MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    z = torch.randn(7, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z))
    torch.testing.assert_close(q.entropy(), reference.entropy())
    torch.testing.assert_close(q.variance, reference.variance)
    torch.testing.assert_close(q.kl_standard_normal(), kl_divergence(reference, standard))


@pytest.mark.parametrize("dim", [1, 2, 5, 50])
def test_full_covariance_starts_as_the_diagonal_one(dim: int) -> None:
    context = torch.randn(3, 4)
    starts = []
    for choice in (families.Diagonal, families.FullCovariance):
        torch.manual_seed(0)
        q = families.make_family(choice, dim, 4)(context)
        starts.append((q.mean, torch.as_tensor(q.covariance_matrix)))
    torch.testing.assert_close(starts[0], starts[1])


def test_low_rank_reaches_any_diagonal_plus_low_rank_covariance() -> None:
    torch.manual_seed(0)
    diagonal = torch.rand(6, dtype=torch.float64) + 0.1
    factor = torch.randn(6, 2, dtype=torch.float64)
    # In units of the diagonal, F has singular values s; V has the same directions and (1 + v^2)^2 = 1 + s^2.
    left, s, _ = torch.linalg.svd(factor / diagonal.sqrt().unsqueeze(-1), full_matrices=False)
    v = left * ((1 + s.square()).sqrt() - 1).sqrt()
    family = families.LowRank(2)(6, 1).double()
    # F has the direction of V, and a size f with f (1 + f^2)^(-1/4) = |V|.
    size = v.norm()
    f = ((size**4 + size**2 * (size**4 + 4).sqrt()) / 2).sqrt()
    parameters = torch.cat([torch.zeros(6), 0.5 * diagonal.log(), (v * f / size).reshape(-1)])
    covariance = torch.as_tensor(family.distribution(parameters).covariance_matrix)
    torch.testing.assert_close(covariance, torch.diag(diagonal) + factor @ factor.mT)


def test_low_rank_gradient_does_not_vanish_at_the_start() -> None:
    torch.manual_seed(0)
    family = families.LowRank(2)(4, 3)
    q = family(torch.randn(10, 3))
    target = 0.5 * torch.eye(4) + 0.5
    precision = torch.linalg.inv(target)
    z = q.rsample(torch.Size([100]))
    loss = (0.5 * torch.einsum("sbi,ij,sbj->sb", z, precision, z) + q.log_prob(z)).mean()
    (gradient,) = torch.autograd.grad(loss, family.head.bias)
    assert gradient[8:].abs().max() > 1e-3


@pytest.mark.parametrize("choice", GAUSSIANS.values(), ids=GAUSSIANS.keys())
def test_scoring_an_own_sample_needs_no_solve(choice: families.FamilyChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    q = _posterior(choice)
    z = q.rsample(torch.Size([3]))

    def refuse(*args: object) -> None:
        raise AssertionError("a solve")

    expected = q.log_prob(z.clone())
    monkeypatch.setattr(type(q.scale), "solve", refuse)
    torch.testing.assert_close(q.log_prob(z), expected)
    with pytest.raises(AssertionError, match="a solve"):
        q.log_prob(z.clone())


def test_full_covariance_calls_no_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cholesky", "cholesky_ex", "inv", "eigh", "svd", "lu"):

        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("a factorisation")

        monkeypatch.setattr(torch.linalg, name, refuse)
    q = _posterior(families.FullCovariance)
    q.log_prob(q.rsample())
    q.log_prob(torch.zeros(6, 5).double())
    q.kl_standard_normal()
    q.entropy()


def test_many_draws_do_not_copy_the_matrix() -> None:
    # A copy of the factor for each draw would be 2,000 x 20 x 60 x 60 doubles, 1.1 GB, where the draws are 19 MB.
    family = families.FullCovariance(60, 2).double()
    before = torch.randn(20, 2, dtype=torch.float64)
    with torch.profiler.profile(profile_memory=True) as profile:
        family(before).rsample(torch.Size([2000]))
    largest = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert largest < 200e6


@pytest.mark.parametrize("choice", [families.Diagonal, families.FullCovariance])
def test_headless_family_takes_the_context_as_parameters(choice: type[families.Diagonal]) -> None:
    size = choice(3, 7).num_parameters
    family = choice(3, size, head=False)
    context = torch.randn(5, size)
    assert not list(family.parameters())
    torch.testing.assert_close(family(context).mean, context[:, :3])
    with pytest.raises(FamilyError, match=rf"must return {size} features an observation; got {size + 1}"):
        choice(3, size + 1, head=False)


def test_choices() -> None:
    assert families.make_family("low_rank", 16, 3).num_parameters == 16 + 16 + 16 * 4
    assert families.family_label("full") == "full"
    assert families.family_label(families.LowRank(3)) == "LowRank(3)"
    assert families.family_label(families.FullCovariance) == "FullCovariance"
    slow = partial(families.FullCovariance, mixing_rate=0.01)
    assert families.family_label(slow) == "FullCovariance(mixing_rate=0.01)"
    with pytest.raises(OptionError, match="mixing_rate must be a finite number above zero; got 0"):
        families.FullCovariance(3, 3, mixing_rate=0)
    with pytest.raises(FamilyError, match=r"one of .*'diagonal', 'full', 'low_rank'.*got 'banded'"):
        families.make_family("banded", 3, 3)
    with pytest.raises(FamilyError, match=r"must return a families\.Family; it returned int"):
        families.make_family(lambda dim, features: 3, 3, 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(FamilyError, match="rank must be at most the number of latent dimensions, 3; got rank=4"):
        families.make_family(families.LowRank(4), 3, 3)
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(OptionError, match="rank must be a positive integer"):
            families.LowRank(wrong)  # type: ignore[arg-type]
