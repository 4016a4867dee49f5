"""A family for each site: blocks, combinations of mixtures, refusals."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from amortvi.errors import FamilyError
from amortvi.families import Mixture, Structured, draw, marginals

DOUBLE = torch.float64
SITES = {"a": torch.Size([2]), "b": torch.Size([]), "c": torch.Size([3])}


def posterior(family: Structured):
    torch.manual_seed(0)
    family.setup(6, 2, SITES).double()
    return family.distribution(torch.randn(4, family.num_parameters, dtype=DOUBLE))


def test_blocks_by_site() -> None:
    q = posterior(Structured({"c": "banded"}))
    block = torch.tensor([0, 0, 1, 2, 2, 2])
    same = block.unsqueeze(0) == block.unsqueeze(1)
    assert (q.covariance_matrix[:, ~same] == 0).all()
    assert (q.covariance_matrix[:, same].abs() > 1e-6).all()
    dense, z = MultivariateNormal(q.mean, q.covariance_matrix), torch.randn(4, 6, dtype=DOUBLE)
    torch.testing.assert_close(q.log_prob(z), dense.log_prob(z))
    torch.testing.assert_close(q.entropy(), dense.entropy())
    torch.testing.assert_close(marginals(q).stddev, dense.variance.sqrt())


def test_parts_that_are_mixtures_are_combined() -> None:
    """Strata of two and three components give six, whose shares are the products of the weights."""
    q = posterior(Structured({"a": Mixture(2), "c": Mixture(3, "diagonal")}))
    drawn = draw(q, 4)
    assert drawn.vector.shape == (24, 4, 6)
    first, third = q.parts[0].weights, q.parts[2].weights
    products = (third.unsqueeze(-1) * first.unsqueeze(-2)).movedim(0, -1).flatten(0, 1)
    torch.testing.assert_close(drawn.log_share.exp().unflatten(0, (6, 4)).sum(1), products)
    # Each expectation is that of the part alone, up to the noise of the same draws.
    torch.manual_seed(0)
    many = draw(q, 20_000)
    estimate = (many.log_share.exp().unsqueeze(-1) * many.vector).sum(0)
    assert ((estimate - q.mean).abs() < 5 * q.variance.sqrt() / 20_000**0.5).all()


def test_unknown_sites_are_refused() -> None:
    with pytest.raises(
        FamilyError, match=r"families names \['d'\], but the latent sites of the model are \['a', 'b', 'c'\]"
    ):
        Structured({"d": "full"}).setup(6, 2, SITES)
    with pytest.raises(FamilyError, match="families must be a dict"):
        Structured("full")
