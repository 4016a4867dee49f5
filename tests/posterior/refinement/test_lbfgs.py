"""Many small problems minimized at once, on functions with known minima."""

import torch
from torch import Tensor

from amortvi.posterior.refinement.lbfgs import OptimizeResult, minimize

DTYPE = torch.float64


def quadratics(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return minima and positive definite Hessians with condition numbers up to about 1,000."""
    generator = torch.Generator().manual_seed(0)
    minima = torch.randn(count, size, generator=generator, dtype=DTYPE)
    basis, _ = torch.linalg.qr(torch.randn(count, size, size, generator=generator, dtype=DTYPE))
    scales = 10 ** (3 * torch.rand(count, size, generator=generator, dtype=DTYPE))
    return minima, basis @ torch.diag_embed(scales) @ basis.mT


def minimize_quadratics(minima: Tensor, hessians: Tensor, tolerance: float) -> tuple[OptimizeResult, Tensor]:
    """Return the result, and how far each function is above its minimum."""

    def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        offset = points - minima[rows]
        gradient = (hessians[rows] @ offset.unsqueeze(-1)).squeeze(-1)
        return 0.5 * (gradient * offset).sum(-1), gradient

    found = minimize(value_and_gradient, torch.zeros_like(minima), tolerance=tolerance, max_steps=500)
    return found, value_and_gradient(torch.arange(len(minima)), found.point)[0]


def test_converged_problems_are_within_the_tolerance() -> None:
    found, excess = minimize_quadratics(*quadratics(count=50, size=6), tolerance=1e-6)
    assert found.converged.all()
    # The predicted decrease is exact only once the curvature is known; before, it is an approximation.
    assert excess.median() < 1e-6
    assert excess.max() < 1e-4


def test_problems_do_not_influence_each_other() -> None:
    minima, hessians = quadratics(20, 4)
    together, _ = minimize_quadratics(minima, hessians, tolerance=1e-8)
    for row in range(0, 20, 5):
        alone, _ = minimize_quadratics(minima[[row]], hessians[[row]], tolerance=1e-8)
        # Sums over batches of different sizes are rounded differently, which can cost or save a step.
        assert abs(int(alone.steps[0]) - int(together.steps[row])) <= 2
        torch.testing.assert_close(alone.point[0], together.point[row], rtol=0, atol=1e-3)


def test_rosenbrock_function_is_minimized_from_both_sides_of_its_valley() -> None:
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 3.0], [1.0, 1.0]], dtype=DTYPE)

    def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        point = points.detach().requires_grad_()
        x, y = point.unbind(-1)
        value = (1 - x).square() + 100 * (y - x.square()).square()
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), gradient

    found = minimize(value_and_gradient, start, tolerance=1e-12, max_steps=500)
    assert found.converged.all()
    torch.testing.assert_close(found.point, torch.ones_like(start), rtol=0, atol=1e-4)


def test_unsolvable_problems_are_not_converged_and_never_get_worse() -> None:
    """One problem is unbounded, one is not finite beyond an edge, and one starts at its minimum."""

    def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        x = points[:, 0]
        values = torch.stack([-x, torch.where(x < 1, (x - 2).square(), torch.nan), x.square()])
        slopes = torch.stack([-torch.ones_like(x), 2 * (x - 2), 2 * x])
        return values[rows, torch.arange(len(rows))], slopes[rows, torch.arange(len(rows))].unsqueeze(-1)

    start = torch.tensor([[0.0], [0.5], [0.0]], dtype=DTYPE)
    found = minimize(value_and_gradient, start, tolerance=1e-6, max_steps=30)
    assert found.converged.tolist() == [False, False, True]
    assert found.point[0] > 0
    assert 0.5 <= found.point[1] < 1
    assert found.point.isfinite().all()
