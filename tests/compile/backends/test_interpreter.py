"""The interpreter computes what the graph's module does, bit for bit, and without running any Python code."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import conv2d, cross_entropy, dropout, layer_norm, one_hot, pad, softplus

from amortvi.compile.backends.interpreter import interpret
from amortvi.compile.recording import record

aten = torch.ops.aten
X = torch.linspace(-1.0, 2.0, 12).reshape(4, 3)
WEIGHT = nn.Parameter(torch.linspace(0.5, -0.5, 9).reshape(3, 3))
IMAGES, KERNEL = (
    torch.linspace(-1.0, 1.0, 50).reshape(2, 1, 5, 5),
    nn.Parameter(torch.linspace(-0.5, 0.5, 9).view(1, 1, 3, 3)),
)
NORM = nn.BatchNorm1d(3)
STATE, COUNT = torch.zeros(3), torch.zeros(())
FIRST, SECOND = torch.zeros(2), torch.zeros(3)


def written(x: Tensor) -> list[Tensor]:
    COUNT.add_(1)
    STATE.mul_(0.9).add_(x.sum(0), alpha=0.1)
    before = STATE + 0
    STATE[1:].clamp_(max=0.25)
    return [before, STATE * COUNT]


def lists_written(x: Tensor) -> list[Tensor]:
    torch._foreach_add_([FIRST, SECOND], [x[0, :2], x[1]], alpha=0.5)
    torch._foreach_mul_([FIRST, SECOND], [2.0, 3.0])
    torch._foreach_addcdiv_([FIRST, SECOND], [FIRST, SECOND], [FIRST.exp(), SECOND.exp()], -0.5)
    return [*torch._foreach_norm([FIRST, SECOND])]


def drawn(x: Tensor) -> list[Tensor]:
    first = torch.randn(4, 3)
    torch.rand(7)  # unused
    kept = dropout(x, 0.5)
    gamma = torch._standard_gamma(x.exp())
    whole = torch.randint(0, 10, (3,))
    return [
        first,
        kept,
        gamma,
        torch.bernoulli(x.sigmoid()),
        whole,
        torch.randperm(5),
        torch.empty(3).normal_(2.0, 0.5),
    ]


def gradients(x: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        loss = (conv2d(IMAGES, KERNEL, padding=1).square().mean() + layer_norm(x @ WEIGHT, [3]).exp().sum()).log()
        loss = loss + cross_entropy(NORM(x @ WEIGHT), torch.tensor([0, 2, 1, 0]))
        return [loss.detach(), *torch.autograd.grad(loss, [WEIGHT, KERNEL])]


FUNCTIONS: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
    "no sizes": lambda x: [x.new_zeros(()), x.new_full((), 2.5), x.sum().expand(()), x[0, 0].reshape([])],
    "None": lambda x: [x.clamp(None, 0.5), x.clamp(-0.5), x.std(unbiased=False), x.sum(dim=None), x[:, None]],
    "literals that are not finite": lambda x: [
        x.clamp(-math.inf, math.inf),
        x.masked_fill(x > 0, -math.inf),
        x + math.nan,
        pad(x, (1, 1), value=math.inf),
    ],
    "integers as floats": lambda x: [x.clamp(0, 1), softplus(x, 2, 1), x.pow(2), 2**x, x * 3],
    "large and small numbers": lambda x: [x * 1e300, x + 1e-300, x.long() + 2**62, x * 0.1, x - 1 / 3],
    "types": lambda x: [
        x.double(),
        x.long(),
        x.bool(),
        x.to(torch.bfloat16),
        torch.arange(3, dtype=torch.float64),
        x.half(),
    ],
    "memory formats": lambda x: [
        IMAGES.to(memory_format=torch.channels_last) * x[0, 0],
        IMAGES.expand(2, 3, 5, 5).clone(memory_format=torch.preserve_format),
    ],
    "layouts and devices": lambda x: [
        torch.zeros(2, 3, device="cpu", layout=torch.strided),
        x.new_ones(2, device="cpu"),
    ],
    "strings": lambda x: [torch.div(x, 0.3, rounding_mode="floor"), torch.nn.functional.gelu(x, approximate="tanh")],
    "optional tensors": lambda x: [x[:, torch.tensor([2, 0])], x[torch.tensor([1, 1])], x[torch.tensor([0]), :, None]],
    "assignment": lambda x: [x.clone().index_put((torch.tensor([1]), torch.tensor([2])), x.sum(), accumulate=True)],
    "several results": lambda x: [
        *x.max(1),
        *x.sort(0, descending=True),
        *x.split([1, 2], 1),
        *x.unbind(),
        *torch.var_mean(x, 0),
    ],
    "joined": lambda x: [torch.cat([x, x + 1]), torch.stack([x, -x], 1), torch.einsum("ij,kj->ik", x, x)],
    "factorized": lambda x: [*torch.linalg.slogdet(x.mT @ x + torch.eye(3)), *torch.linalg.eigh(x.mT @ x)],
    "integers": lambda x: [
        one_hot(torch.arange(3) % 2, 2),
        x.argmax(),
        x.long() // 2,
        x.long() % 3,
        ~(x > 0),
        x.cumsum(0),
    ],
    "special functions": lambda x: [
        torch.lgamma(x.exp()),
        torch.special.ndtr(x),
        x.exp().digamma(),
        torch.logsumexp(x, [0, 1]),
    ],
    "batch norm": lambda x: [NORM(x)],
    "written": written,
    "drawn": drawn,
    "gradients": gradients,
}


def outcomes(run: Callable[..., Sequence[Tensor]], outside: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return results and everything written after three runs, and restore what was written."""
    before, found = [tensor.detach().clone() for tensor in outside], []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for step in range(3):
            results = run([X + step, *(tensor.detach() for tensor in outside)])
            found += [each.clone() for each in (*results, *outside, torch.get_rng_state())]
        for tensor, value in zip(outside, before, strict=True):
            tensor.copy_(value)
    return found


def assert_same(mine: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for result, reference in zip(mine, expected, strict=True):
        assert result.dtype == reference.dtype
        assert result.stride() == reference.stride()
        assert torch.equal(result.nan_to_num(nan=-7), reference.nan_to_num(nan=-7))
        assert torch.equal(result.isnan(), reference.isnan())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_of_the_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = record(FUNCTIONS[name], [X])
    expected = outcomes(lambda inputs: recording.graph(*inputs), recording.outside, seed=1)
    run = interpret(recording.graph)
    monkeypatch.setattr(fx.GraphModule, "__call__", lambda *given: pytest.fail("the module itself was run"))
    assert_same(outcomes(run, recording.outside, seed=1), expected)


def complex_numbers(x: Tensor) -> list[Tensor]:
    return [(x * (1 + 2j)).abs(), torch.fft.rfft(x).real]


def checked(x: Tensor) -> list[Tensor]:
    return [torch.linalg.cholesky(x.mT @ x + torch.eye(3))]


@pytest.mark.parametrize("function", [complex_numbers, lists_written, checked])
def test_what_torchscript_does_not_support_is_computed_all_the_same(function: Callable[[Tensor], list[Tensor]]) -> None:
    recording = record(function, [X])
    expected = outcomes(lambda inputs: recording.graph(*inputs), recording.outside, seed=1)
    assert_same(outcomes(interpret(recording.graph), recording.outside, seed=1), expected)


def test_a_matrix_that_becomes_singular_is_reported() -> None:
    run = interpret(record(lambda x: [torch.linalg.cholesky(x[:3] + torch.eye(3))], [torch.zeros(4, 3)]).graph)
    with pytest.raises(RuntimeError, match="cholesky"):
        run([torch.full((4, 3), -2.0)])


def test_newer_versions_of_python_do_without_torchscript(monkeypatch: pytest.MonkeyPatch) -> None:
    from amortvi.compile.backends import interpreter

    monkeypatch.setattr(interpreter, "_SUPPORTED", False)
    monkeypatch.setattr(torch.jit, "CompilationUnit", lambda source: pytest.fail("TorchScript was used"))
    assert torch.equal(interpret(record(lambda x: [x.exp()], [X]).graph)([X])[0], X.exp())
