"""What is particular to each Gaussian family."""

import pytest
import torch

from amortvi import families
from amortvi.errors import FamilyError

DOUBLE = torch.float64


def posterior(choice: str) -> families.Gaussian:
    family = families.make_family(choice, 5, 4)
    return family.distribution(0.4 * torch.randn(6, family.num_parameters, dtype=DOUBLE))


@pytest.mark.parametrize("dim", [1, 2, 5, 50])
def test_families_with_equal_seeds_start_at_equal_locations_and_full_covariance_as_diagonal(dim: int) -> None:
    starts, context = [], torch.randn(3, 4)
    for choice in ("diagonal", "full", "low_rank"):
        torch.manual_seed(0)
        starts.append(families.make_family(choice, dim, 4)(context))
    assert torch.equal(starts[0].mean, starts[1].mean)
    assert torch.equal(starts[0].mean, starts[2].mean)
    torch.testing.assert_close(starts[0].covariance_matrix, starts[1].covariance_matrix)


def test_low_rank_reaches_every_diagonal_plus_low_rank_covariance() -> None:
    torch.manual_seed(0)
    diagonal = torch.rand(6, dtype=DOUBLE) + 0.1
    factor = torch.randn(6, 2, dtype=DOUBLE)
    # In units of the diagonal, the factor has singular values s; V has the same directions and (1 + v^2)^2 = 1 + s^2.
    left, s, _ = torch.linalg.svd(factor / diagonal.sqrt().unsqueeze(-1), full_matrices=False)
    v = left * ((1 + s.square()).sqrt() - 1).sqrt()
    family = families.LowRank(rank=2).setup(6, 1).double()
    # F has the direction of V, and a norm f with f (1 + f^2)^(-1/4) = |V|.
    norm = v.norm()
    f = ((norm**4 + norm**2 * (norm**4 + 4).sqrt()) / 2).sqrt()
    parameters = torch.cat([torch.zeros(6), 0.5 * diagonal.log(), (v * f / norm).reshape(-1)])
    covariance = family.distribution(parameters).covariance_matrix
    torch.testing.assert_close(covariance, torch.diag(diagonal) + factor @ factor.mT)


def test_the_gradient_of_low_rank_does_not_vanish_at_the_start() -> None:
    torch.manual_seed(0)
    family = families.LowRank(rank=2).setup(4, 3)
    q = family(torch.randn(10, 3))
    precision = torch.linalg.inv(0.5 * torch.eye(4) + 0.5)
    z = q.rsample(torch.Size([100]))
    loss = (0.5 * torch.einsum("sbi,ij,sbj->sb", z, precision, z) + q.log_prob(z)).mean()
    (gradient,) = torch.autograd.grad(loss, family.to_parameters.bias)
    # At F = 0 it would vanish; at the initial F, of size 0.1 / sqrt(D), it is far above rounding errors.
    assert gradient[8:].abs().max() > 1e-4


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("refused")


@pytest.mark.parametrize("choice", ["diagonal", "full", "low_rank"])
def test_the_density_of_an_own_draw_needs_no_solve(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q = posterior(choice)
    z = q.rsample(torch.Size([3]))
    expected = q.log_prob(z.clone())
    monkeypatch.setattr(type(q.scale), "solve", refuse)
    torch.testing.assert_close(q.log_prob(z), expected)
    with pytest.raises(AssertionError, match="refused"):
        q.log_prob(z.clone())


def test_full_covariance_factorizes_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cholesky", "cholesky_ex", "inv", "eigh", "svd", "lu"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    q = posterior("full")
    for computed in (q.log_prob(q.rsample()), q.log_prob(q.mean + 1), families.kl_to_standard_normal(q), q.entropy()):
        assert computed.isfinite().all()


def test_many_draws_do_not_copy_the_matrix() -> None:
    # A copy of the factor for each draw would have 2,000 x 20 x 60 x 60 doubles, 1.1 GB; the draws have 19 MB.
    family = families.FullCovariance().setup(60, 2).double()
    context = torch.randn(20, 2, dtype=DOUBLE)
    with torch.profiler.profile(profile_memory=True) as profile:
        family(context).rsample(torch.Size([2000]))
    assert max(event.self_cpu_memory_usage for event in profile.key_averages()) < 200e6


@pytest.mark.parametrize(
    ("bare", "size"),
    [
        (families.Diagonal(head=False), 6),
        (families.FullCovariance(head=False), 9),
        (families.LowRank(2, head=False), 12),
    ],
)
def test_without_a_head_the_context_is_the_parameters(bare: families.ParametricFamily, size: int) -> None:
    family = families.make_family(bare, 3, size)
    context = torch.randn(5, size)
    q = family(context)
    torch.testing.assert_close(q.mean, context[:, :3])
    torch.testing.assert_close(q.log_prob(q.mean), family.distribution(context).log_prob(context[:, :3]))
    with pytest.raises(FamilyError, match=rf"must return {size} features per observation; got {size + 1}"):
        families.make_family(bare, 3, size + 1)


def test_parameters_of_full_covariance_without_a_head_are_the_rows_of_the_triangle() -> None:
    family = families.FullCovariance(head=False).setup(3, 9)
    log_scale = torch.tensor([0.1, -0.2, 0.3])
    parameters = torch.cat([torch.zeros(3), log_scale, torch.tensor([1.0, 2.0, 3.0])])
    lower = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, 3.0, 1.0]])
    factor = log_scale.exp().unsqueeze(-1) * lower
    torch.testing.assert_close(family(parameters).covariance_matrix, factor @ factor.mT)


def test_learning_rates_scale_the_outputs_of_the_head() -> None:
    family = families.FullCovariance(off_diagonal_rate=0.03).setup(3, 2)
    assert family.learning_rates().tolist() == pytest.approx([1.0] * 3 + [0.3] * 3 + [0.01] * 3)
    with torch.no_grad():
        family.to_parameters.weight.fill_(1.0)
        family.to_parameters.bias.zero_()
    found = family.to_parameters(torch.ones(2))
    torch.testing.assert_close(found, 2 * family.learning_rates())
