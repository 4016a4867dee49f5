"""Many small minimisations at once, on functions whose minima are known."""

import torch
from torch import Tensor

from amortvi.posterior.refinement.lbfgs import Minimum, minimize

torch_double = torch.float64


def quadratics(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Centres and positive definite matrices with condition numbers up to about a thousand."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, size, generator=generator, dtype=torch_double)
    basis, _ = torch.linalg.qr(torch.randn(count, size, size, generator=generator, dtype=torch_double))
    scales = 10 ** (3 * torch.rand(count, size, generator=generator, dtype=torch_double))
    return centres, basis @ torch.diag_embed(scales) @ basis.mT


def minimize_quadratics(count: int, size: int, tolerance: float) -> tuple[Minimum, Tensor]:
    centres, curvature = quadratics(count, size)

    def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        offset = points - centres[rows]
        gradient = (curvature[rows] @ offset.unsqueeze(-1)).squeeze(-1)
        return 0.5 * (gradient * offset).sum(-1), gradient

    found = minimize(
        value_and_gradient, torch.zeros(count, size, dtype=torch_double), tolerance=tolerance, max_steps=500
    )
    value, _ = value_and_gradient(torch.arange(count), found.point)
    return found, value


def test_what_is_left_is_within_the_tolerance() -> None:
    found, left = minimize_quadratics(count=50, size=6, tolerance=1e-6)
    assert bool(found.converged.all())
    # The promise of a step is all that is left only once the curvature is known; before, it is a good guess of it.
    assert float(left.median()) < 1e-6
    assert float(left.max()) < 1e-4


def test_each_problem_is_solved_as_if_it_were_alone() -> None:
    centres, curvature = quadratics(20, 4)

    def only(chosen: Tensor) -> Minimum:
        def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
            offset = points - centres[chosen[rows]]
            gradient = (curvature[chosen[rows]] @ offset.unsqueeze(-1)).squeeze(-1)
            return 0.5 * (gradient * offset).sum(-1), gradient

        start = torch.zeros(len(chosen), 4, dtype=torch_double)
        return minimize(value_and_gradient, start, tolerance=1e-8, max_steps=500)

    together = only(torch.arange(20))
    for row in range(0, 20, 5):
        alone = only(torch.tensor([row]))
        # The same steps; sums over a batch are rounded in another order.
        assert int(alone.steps[0]) == int(together.steps[row])
        torch.testing.assert_close(alone.point[0], together.point[row], rtol=1e-6, atol=1e-9)


def test_a_curved_valley() -> None:
    """Rosenbrock's function, from points on both sides of its valley."""
    start = torch.tensor([[-1.2, 1.0], [2.0, -1.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch_double)

    def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        point = points.detach().requires_grad_()
        x, y = point.unbind(-1)
        value = (1 - x).square() + 100 * (y - x.square()).square()
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), gradient

    found = minimize(value_and_gradient, start, tolerance=1e-12, max_steps=500)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.point, torch.ones_like(start), rtol=0, atol=1e-4)


def test_problems_that_do_not_converge_say_so_and_never_get_worse() -> None:
    """One with no minimum, one that is not finite beyond its edge, one that is done at once."""

    def value_and_gradient(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        x = points[:, 0]
        values = torch.stack([-x, torch.where(x < 1, (x - 2).square(), torch.nan), x.square()])
        slopes = torch.stack([-torch.ones_like(x), 2 * (x - 2), 2 * x])
        return values[rows, torch.arange(len(rows))], slopes[rows, torch.arange(len(rows))].unsqueeze(-1)

    start = torch.tensor([[0.0], [0.5], [0.0]], dtype=torch_double)
    found = minimize(value_and_gradient, start, tolerance=1e-6, max_steps=30)
    assert found.converged.tolist() == [False, False, True]
    assert float(found.point[0]) > 0
    assert 0.5 <= float(found.point[1]) < 1
    assert bool(torch.isfinite(found.point).all())
