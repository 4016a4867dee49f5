r"""The Gaussian whose precision matrix is banded: a Gauss-Markov chain, at a cost linear in its length.

The latent vector is a chain of :math:`T` steps with :math:`d` coordinates each, and the posterior of a step depends on the
earlier ones through the last one only, as that of a state-space model does (Archer et al., 2015). Its precision matrix is block
tridiagonal. The chain is written in steps :math:`v_t` with covariance :math:`I`,

.. math::

    v_1 = \epsilon_1, \qquad v_t = R_t\, v_{t-1} + C_t\, \epsilon_t, \quad C_t C_t^\top = I - R_t R_t^\top, \qquad
    z_t = \mu_t + \operatorname{diag}(\sigma_t)\,(I + N_t)\, v_t ,

so marginal covariances are known without a recursion, as for the full covariance. The parameters of :math:`R_t` are a matrix
:math:`B_t` of any real numbers,

.. math::

    I - R_t R_t^\top = (I + B_t B_t^\top)^{-1},

which for :math:`d = 1` makes :math:`R_t = B_t / \sqrt{1 + B_t^2}` the correlation of neighboring steps. The density takes one
product per step, and a draw a linear recurrence, whose steps are combined in pairs, in :math:`\log_2 T` parallel rounds and
:math:`O(T)` operations (Blelloch, 1990).
"""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi._util.checks import optional, positive_int
from amortvi.errors import FamilyError
from amortvi.families.gaussians.diagonal import DiagonalScale
from amortvi.families.gaussians.folded import FoldedTriangle
from amortvi.families.gaussians.full_covariance import TriangularScale
from amortvi.families.gaussians.gaussian import GaussianFamily, ScaleOperator

__all__ = ["Banded", "ChainScale", "linear_recurrence"]

_LARGEST_NORM = 300.0
"""The largest Frobenius norm of ``B_t``, so that ``I + B B'`` is factorized safely in single precision."""


class ChainScale(ScaleOperator):
    """The square root ``A`` of a covariance whose inverse is block tridiagonal.

    Args:
        step: ``diag(sigma_t) (I + N_t)`` of each step, batch shape ``(*B, T)``, for vectors of size ``d``.
        couplings: ``B_t`` from the second step on, ``(*B, T - 1, d, d)``.
        order: the position of each coordinate of the chain in the latent vector, ``(D,)``, or ``None`` if it is the same.
    """

    def __init__(self, step: ScaleOperator, couplings: Tensor, order: Tensor | None) -> None:
        self.step = step
        self.couplings = couplings
        self.order = order
        self._steps, self._size = couplings.shape[-3] + 1, couplings.shape[-1]
        identity = torch.eye(self._size, dtype=couplings.dtype, device=couplings.device)
        self._innovation = _cholesky(identity + _multiply(couplings, couplings.mT))
        inner = _cholesky(identity + _multiply(couplings.mT, couplings))
        self._transition = _solve(inner, couplings.mT, upper=False).mT

    def _to_chain(self, vector: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., T, d)``."""
        ordered = vector if self.order is None else vector.index_select(-1, self.order)
        return ordered.unflatten(-1, (self._steps, self._size))

    def _to_vector(self, chain: Tensor) -> Tensor:
        flat = chain.flatten(-2)
        return flat if self.order is None else flat.index_select(-1, self.order.argsort())

    def matmul(self, noise: Tensor) -> Tensor:
        first, later = self._to_chain(noise).split([1, self._steps - 1], dim=-2)
        # C = G'^-1 for the Cholesky factor G of I + B B'.
        innovation = _solve(self._innovation.mT, later.unsqueeze(-1), upper=True).squeeze(-1)
        return self._to_vector(
            self.step.matmul(linear_recurrence(self._transition, torch.cat([first, innovation], -2)))
        )

    def solve(self, residual: Tensor) -> Tensor:
        chain = self.step.solve(self._to_chain(residual))
        first, later = chain.split([1, self._steps - 1], dim=-2)
        innovation = later - _apply(self._transition, chain[..., :-1, :])
        return self._to_vector(torch.cat([first, _apply(self._innovation.mT, innovation)], dim=-2))

    def log_abs_det(self) -> Tensor:
        innovation = self._innovation.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        return self.step.log_abs_det().sum(-1) - innovation

    def variance(self) -> Tensor:
        return self._to_vector(self.step.variance())

    def covariance(self) -> Tensor:
        size, batch_shape = self._steps * self._size, self.couplings.shape[:-3]
        identity = torch.eye(size, dtype=self.couplings.dtype, device=self.couplings.device)
        columns = self.matmul(identity.reshape(size, *(1,) * len(batch_shape), size).expand(size, *batch_shape, size))
        square_root = columns.movedim(0, -1)
        return square_root @ square_root.mT

    def expand(self, batch_shape: torch.Size) -> ChainScale:
        couplings = self.couplings.expand(batch_shape + self.couplings.shape[-3:])
        return type(self)(self.step.expand(torch.Size([*batch_shape, self._steps])), couplings, self.order)


def linear_recurrence(transition: Tensor, innovation: Tensor) -> Tensor:
    """Return ``v`` with ``v_1 = e_1`` and ``v_t = R_t v_{t-1} + e_t``, in logarithmically many parallel rounds.

    Args:
        transition: ``R_t`` from the second step on, ``(*B, T - 1, d, d)``.
        innovation: ``e``, ``(*S, *B, T, d)``.

    Example:
        >>> linear_recurrence(torch.full((3, 1, 1), 0.5), torch.ones(4, 1)).squeeze(-1)
        tensor([1.0000, 1.5000, 1.7500, 1.8750])
    """
    steps = innovation.shape[-2]
    if steps == 1:
        return innovation
    # Two steps form one: v_{2i} = R_{2i} v_{2i-1} + e_{2i} = (R_{2i} R_{2i-1}) v_{2i-2} + (R_{2i} e_{2i-1} + e_{2i}).
    odd, even = innovation[..., 0::2, :], innovation[..., 1::2, :]
    into_even, into_odd = transition[..., 0::2, :, :], transition[..., 1::2, :, :]
    pairs = even.shape[-2]
    combined = even + _apply(into_even, odd[..., :pairs, :])
    at_even = linear_recurrence(_multiply(into_even[..., 1:, :, :], into_odd[..., : pairs - 1, :, :]), combined)
    later = odd[..., 1:, :] + _apply(into_odd, at_even[..., : odd.shape[-2] - 1, :])
    at_odd = torch.cat([odd[..., :1, :].expand(*later.shape[:-2], 1, -1), later], dim=-2)
    together = torch.stack([at_odd[..., :pairs, :], at_even], dim=-2).flatten(-3, -2)
    return torch.cat([together, at_odd[..., pairs:, :]], dim=-2)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply ``(*B, T, d, d)`` by ``(*S, *B, T, d)``; as arithmetic, because the matrices are small."""
    return (matrices * vectors.unsqueeze(-2)).sum(-1)


# LAPACK is called once per matrix, which for a chain of scalars takes ten times as long as elementwise operations.


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    return left * right if left.shape[-1] == 1 else left @ right


def _cholesky(matrices: Tensor) -> Tensor:
    return matrices.sqrt() if matrices.shape[-1] == 1 else torch.linalg.cholesky_ex(matrices)[0]


def _solve(triangular: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    if triangular.shape[-1] == 1:
        return right / triangular
    return torch.linalg.solve_triangular(triangular, right, upper=upper)


class Banded(GaussianFamily):
    """Gaussian with a banded precision matrix: a chain in time, with cost linear in its length.

    By default, the first dimension of a latent site is time; if there are several such sites of the same length, a step holds one
    row of each. If all sites are scalars, each of them is a step. Families for some of the sites are chosen with `Structured`.

    Args:
        bandwidth: ``d``, the number of consecutive coordinates of the latent vector that form a step; every precision matrix of
            at most this bandwidth is reached. By default it follows from the shapes of the sites.
        off_diagonal_rate: the learning rate of the off-diagonal parameters relative to that of the locations; it is divided
            by ``d``.
        head: whether there is a linear head; without one, the context itself is ``(loc, log_scale, N, B)``.

    Raises:
        OptionError: ``bandwidth`` is not a positive integer, or ``off_diagonal_rate`` is not positive.
        FamilyError: at setup, if the sites have no common length, ``bandwidth`` does not divide ``D``, or there is no head and
            ``C`` is not the number of parameters.

    Example:
        >>> family = Banded().setup(dim=100, context_features=5)
        >>> family.num_parameters, family(torch.zeros(3, 5)).rsample((10,)).shape
        (299, torch.Size([10, 3, 100]))
    """

    order: Tensor | None

    def __init__(self, bandwidth: int | None = None, *, off_diagonal_rate: float = 1.0, head: bool = True) -> None:
        super().__init__(off_diagonal_rate=off_diagonal_rate, head=head)
        self.bandwidth = optional(positive_int, "bandwidth", bandwidth)

    def build(self) -> None:
        order = self._order()
        self._steps, self._size = order.shape
        flat = order.flatten()
        in_order = torch.equal(flat, torch.arange(self.dim))
        self.register_buffer("order", None if in_order else flat, persistent=False)
        super().build()

    def _order(self) -> Tensor:
        """Return the positions in the latent vector of the coordinates of each step, ``(T, d)``."""
        if self.bandwidth is not None:
            if self.dim % self.bandwidth:
                raise FamilyError(
                    f"bandwidth must divide the number of latent dimensions, {self.dim}; got bandwidth={self.bandwidth}."
                )
            return torch.arange(self.dim).reshape(-1, self.bandwidth)
        if all(not shape for shape in self.sites.values()):
            return torch.arange(self.dim).unsqueeze(-1)
        if len({shape[:1] for shape in self.sites.values()}) > 1:
            listed = ", ".join(f"{name!r} has {tuple(shape)}" for name, shape in self.sites.items())
            raise FamilyError(
                f"Banded() needs sites with a common first dimension, the steps of the chain; {listed}. Choose the sites that "
                f"form the chain with Structured({{'site': Banded()}}), or pass bandwidth=."
            )
        positions = torch.arange(self.dim).split([shape.numel() for shape in self.sites.values()])
        steps = next(iter(self.sites.values()))[0]
        return torch.cat([part.reshape(steps, -1) for part in positions], dim=1)

    @property
    def num_off_diagonal(self) -> int:
        return self._steps * (self._size * (self._size - 1) // 2) + (self._steps - 1) * self._size**2

    def learning_rates(self) -> Tensor:
        rates = super().learning_rates()
        # A coordinate is affected by the coordinates of its own step and the one before, not by all of them.
        rates[2 * self.dim :] = self.off_diagonal_rate / self._size
        return rates

    def scale(self, log_scale: Tensor, off_diagonal: Tensor) -> ChainScale:
        """Return ``A`` with ``off_diagonal``, ``(*B, num_off_diagonal)``, as the elements of all ``N_t`` and ``B_t``."""
        steps, size = self._steps, self._size
        within = size * (size - 1) // 2
        ordered = log_scale if self.order is None else log_scale.index_select(-1, self.order)
        lower, couplings = off_diagonal.split([steps * within, (steps - 1) * size**2], dim=-1)
        by_step = ordered.unflatten(-1, (steps, size))
        step: ScaleOperator = DiagonalScale(by_step)
        if size > 1:
            step = TriangularScale(by_step, FoldedTriangle(lower.unflatten(-1, (steps, within)), size))
        couplings = couplings.unflatten(-1, (steps - 1, size, size))
        squared_norm = couplings.square().sum((-1, -2), keepdim=True)
        return ChainScale(step, couplings * (1 + squared_norm / _LARGEST_NORM**2).rsqrt(), self.order)
