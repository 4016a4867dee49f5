"""A family whose distributions are not transformations of normal noise."""

from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace

from amortvi.families import ParametricFamily


class Laplaces(ParametricFamily):
    """Independent Laplace distributions."""

    @property
    def num_parameters(self) -> int:
        return 2 * self.dim

    def distribution(self, parameters: Tensor) -> Distribution:
        loc, log_scale = parameters.chunk(2, dim=-1)
        return Independent(Laplace(loc, log_scale.exp()), 1)
