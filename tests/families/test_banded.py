"""The banded precision: a Gauss-Markov chain of any shape, compared with dense matrices."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from amortvi.errors import FamilyError
from amortvi.families import Banded
from amortvi.families.gaussians.banded import linear_recurrence

DOUBLE = torch.float64


def posterior(family: Banded, dim: int, sites: dict[str, torch.Size] | None = None):
    torch.manual_seed(0)
    family.setup(dim, 2, sites).double()
    return family.distribution(torch.randn(3, family.num_parameters, dtype=DOUBLE))


@pytest.mark.parametrize("steps", range(1, 10))
@pytest.mark.parametrize("size", [1, 2])
def test_recurrence_equals_a_loop(steps: int, size: int) -> None:
    torch.manual_seed(steps)
    transition = torch.randn(3, steps - 1, size, size, dtype=DOUBLE)
    innovation = torch.randn(5, 3, steps, size, dtype=DOUBLE)
    expected = [innovation[..., 0, :]]
    for step in range(1, steps):
        moved = (transition[:, step - 1] @ expected[-1].unsqueeze(-1)).squeeze(-1)
        expected.append(moved + innovation[..., step, :])
    torch.testing.assert_close(linear_recurrence(transition, innovation), torch.stack(expected, dim=-2))


@pytest.mark.parametrize(("dim", "bandwidth"), [(6, 1), (6, 2), (6, 3), (6, 6), (1, 1)])
def test_precision_is_block_tridiagonal(dim: int, bandwidth: int) -> None:
    q = posterior(Banded(bandwidth), dim)
    precision = torch.linalg.inv(q.covariance_matrix)
    block = torch.arange(dim) // bandwidth
    distant = (block.unsqueeze(0) - block.unsqueeze(1)).abs() > 1
    assert precision[:, distant].abs().max() < 1e-9 * precision.abs().max() if distant.any() else True
    if dim > bandwidth:
        neighboring = (block.unsqueeze(0) - block.unsqueeze(1)).abs() == 1
        assert precision[:, neighboring].abs().min() > 1e-6
    dense = MultivariateNormal(q.loc, q.covariance_matrix)
    z = torch.randn(4, 3, dim, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), dense.log_prob(z))
    torch.testing.assert_close(q.variance, dense.variance)
    torch.testing.assert_close(q.entropy(), dense.entropy())
    noise = torch.randn(4, 3, dim, dtype=DOUBLE)
    torch.testing.assert_close(q.scale.solve(q.scale.matmul(noise)), noise)


def test_every_chain_of_scalars_is_reached() -> None:
    """The parameters that give an arbitrary tridiagonal precision matrix: scales and correlations of neighbors."""
    torch.manual_seed(1)
    off = 0.4 * torch.randn(5, dtype=DOUBLE)
    precision = torch.diag(torch.rand(6, dtype=DOUBLE) + 1) + torch.diag(off, 1) + torch.diag(off, -1)
    covariance = torch.linalg.inv(precision)
    std = covariance.diagonal().sqrt()
    correlation = covariance.diagonal(1) / std[1:] / std[:-1]
    coupling = correlation / (1 - correlation.square()).sqrt()
    norm = 300.0  # the parameters are squashed to this norm
    parameters = torch.cat([torch.zeros(6, dtype=DOUBLE), std.log(), coupling / (1 - (coupling / norm) ** 2).sqrt()])
    q = Banded().setup(6, 2).double().distribution(parameters.unsqueeze(0))
    torch.testing.assert_close(q.covariance_matrix.squeeze(0), covariance)


def test_sites_of_equal_length_share_their_steps() -> None:
    """Level and slope: the precision couples only coordinates of the same or neighboring times."""
    sites = {"level": torch.Size([4]), "slope": torch.Size([4, 2])}
    q = posterior(Banded(), 12, sites)
    precision = torch.linalg.inv(q.covariance_matrix)
    time = torch.cat([torch.arange(4), torch.arange(4).repeat_interleave(2)])
    distance = (time.unsqueeze(0) - time.unsqueeze(1)).abs()
    assert precision[:, distance > 1].abs().max() < 1e-9 * precision.abs().max()
    assert precision[:, distance == 1].abs().min() > 1e-8
    z = torch.randn(3, 12, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), MultivariateNormal(q.loc, q.covariance_matrix).log_prob(z))


def test_scalar_sites_are_steps() -> None:
    family = Banded().setup(3, 2, {f"z_{t}": torch.Size([]) for t in range(3)})
    assert family.num_off_diagonal == 2


def test_sites_that_form_no_chain_are_refused() -> None:
    with pytest.raises(FamilyError, match=r"'a' has \(3,\), 'b' has \(2,\).*Structured"):
        Banded().setup(5, 2, {"a": torch.Size([3]), "b": torch.Size([2])})
    with pytest.raises(FamilyError, match="bandwidth must divide the number of latent dimensions, 5; got bandwidth=2"):
        Banded(2).setup(5, 2)
