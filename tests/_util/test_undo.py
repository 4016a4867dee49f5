"""What a failed call has done to modules is undone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amortvi._util.undo import undone_on_error


class Net(nn.Module):
    """A module with a lazy layer, a buffer that is not saved, a list, and a normalization."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LazyLinear(2)
        self.register_buffer("count", torch.zeros(()), persistent=False)
        self.names, self.options = ["a"], {"rate": 1.0}
        self.unset: Tensor | None = None
        self.register_parameter("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


def described(module: nn.Module) -> dict[str, Any]:
    """Return everything about a module that a call could change, as comparable values."""
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        found[name] = (type(part), part.training, sorted(vars(part)), sorted(part._modules), sorted(part._parameters))
        found[f"{name} hooks"] = (len(part._forward_hooks), len(part._forward_pre_hooks))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        is_lazy = isinstance(tensor, nn.UninitializedParameter)
        value = () if is_lazy else (tensor.dtype, tensor.shape, tensor.tolist())
        found[f"{name} tensor"] = (id(tensor), type(tensor), tensor.requires_grad, value)
    return found


def use_lazy(net: Net) -> None:
    net(torch.randn(5, 3))


def hook(net: Net) -> None:
    net.first.register_forward_hook(lambda *arguments: None)
    net.first.register_forward_pre_hook(lambda *arguments: None)


def freeze(net: Net) -> None:
    net.first.requires_grad_(False)


def set_attributes(net: Net) -> None:
    net.names.append("b")
    net.options["rate"] = 2.0
    net.unset = torch.ones(2)
    net.another = 3  # type: ignore[assignment]
    del net.absent


def replace_parts(net: Net) -> None:
    net.first = nn.Linear(3, 5)
    net.added = nn.Linear(1, 1)
    net.count = torch.ones(2)
    net.norm.weight = nn.Parameter(torch.zeros(4))
    net.add_module("more", nn.Tanh())


CHANGES: dict[str, Callable[[Net], Any]] = {
    "lazy": use_lazy,
    "dtype": lambda net: net.double(),
    "half": lambda net: net.half(),
    "modes": lambda net: net.eval(),
    "mode of a part": lambda net: net.norm.eval(),
    "hooks": hook,
    "requires_grad": freeze,
    "attributes": set_attributes,
    "parts": replace_parts,
    "class": lambda net: setattr(net.first, "__class__", nn.Identity),
    "lazy, then dtype": lambda net: (use_lazy(net), net.double()),
}


def fail(change: Callable[[Any], Any], *modules: nn.Module, **options: Any) -> None:
    with undone_on_error(*modules, **options):
        change(modules[0])
        raise ZeroDivisionError


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_restored_after_an_error(name: str) -> None:
    net = Net().eval() if name == "lazy" else Net()
    if "lazy" in name:
        net.norm.track_running_stats = False  # these statistics would be changed in place
    before = described(net)
    with pytest.raises(ZeroDivisionError):
        fail(CHANGES[name], net)
    assert described(net) == before
    net(torch.randn(5, 3)).sum()  # it works as if nothing had happened
    net.double()(torch.randn(5, 3).double())


@pytest.mark.parametrize("name", CHANGES)
def test_without_an_error_changes_remain(name: str) -> None:
    net = Net()
    before = described(net)
    with undone_on_error(net):
        CHANGES[name](net)
    assert described(net) != before


def test_unless_is_asked_after_the_error() -> None:
    net = Net()
    with pytest.raises(ZeroDivisionError):
        fail(lambda net: net.double(), net, unless=lambda: net.first.weight.dtype == torch.float64)
    assert net.first.weight.dtype == torch.float64


def test_several_modules_that_share_parts() -> None:
    one, shared = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    two = nn.Sequential(shared, one)
    weight = shared.weight
    with pytest.raises(ZeroDivisionError):
        fail(lambda one: (two.double(), one.append(nn.Tanh())), one, two, shared)
    assert shared.weight is weight
    assert (weight.dtype, one[0].weight.dtype, len(one)) == (torch.float32, torch.float32, 1)
