"""The user's Pyro model as an `nn.Module` with parameters of its own, apart from Pyro's global param store."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from amortvi.errors import ModelError

__all__ = ["GenerativeModel"]


class GenerativeModel(nn.Module):
    """Wraps any Pyro callable so that its parameters are its own.

    Pyro keeps parameters in one store for the whole process, where two models that both call a parameter ``"scale"``
    would share it. Here the model runs inside a private scope of the store: parameters of an `nn.Module` or `PyroModule`
    are the module's, and what a function makes with ``pyro.param`` is adopted by this wrapper at its first call. So
    ``parameters()``, ``state_dict()``, ``to()`` and copying work alike for all of them, and the global store is left as it
    was.

    Args:
        model: a Pyro model: a function, a bound method of a module, an `nn.Module` or a `PyroModule`.

    Raises:
        ModelError: ``model`` is not callable.

    Example:
        >>> import pyro, torch
        >>> def model(x):
        ...     return pyro.param("scale", torch.tensor(2.0), constraint=pyro.distributions.constraints.positive) * x
        >>> wrapped = GenerativeModel(model)
        >>> float(wrapped(torch.tensor(3.0)).detach())
        6.0
        >>> len(list(wrapped.parameters())), "scale" in pyro.get_param_store()
        (1, False)
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        if not callable(model):
            raise ModelError(f"model must be a Pyro model, that is, callable; got {type(model).__name__}.")
        super().__init__()
        self.model = model
        if isinstance(model, MethodType) and isinstance(model.__self__, nn.Module):
            self.owner = model.__self__
        self.adopted = nn.ParameterList()
        self._adopted_names: list[str] = []
        self._constraints: dict[str, Any] = {}
        self._known: set[str] = set()
        self._has_run = False
        self._active = False
        self._borrows = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model inside its own parameter scope."""
        device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        # A model that writes torch.zeros(8) means "on the device of the data, of the type of the parameters".
        placement = contextlib.nullcontext() if device is None or device.type == "cpu" else device
        with self.own_parameters(), placement, _default_dtype(self._floating_type((*args, *kwargs.values()))):
            result = self.model(*args, **kwargs)
            self._adopt()
        return result

    def _floating_type(self, arguments: tuple[Any, ...]) -> torch.dtype:
        """The type of the parameters; without any, that of the data."""
        tensors = itertools.chain(self.parameters(), (value for value in arguments if isinstance(value, Tensor)))
        return next((value.dtype for value in tensors if value.is_floating_point()), torch.get_default_dtype())

    @contextlib.contextmanager
    def own_parameters(self) -> Iterator[None]:
        """Make this model's parameters the content of Pyro's param store; what was there comes back at exit."""
        if self._active:
            yield
            return
        state: Any = {
            "params": dict(zip(self._adopted_names, self.adopted, strict=True)),
            "constraints": dict(self._constraints),
        }
        with pyro.get_param_store().scope(state):
            self._active = True
            try:
                yield
            finally:
                self._active = False

    def _adopt(self) -> None:
        """Take over the parameters that ``pyro.param`` and ``pyro.module`` statements put into the store."""
        store = pyro.get_param_store()
        new = store.keys() - self._known
        own = {id(parameter) for parameter in self.parameters()} if new else set()
        for name in sorted(new):
            value = dict(store.named_parameters())[name]
            if id(value) not in own:
                if self._has_run:
                    raise ModelError(
                        f"the model made the parameter {name!r} after its first call, when the optimizer could no "
                        f"longer know of it: make every parameter at each call, or in the constructor of a PyroModule."
                    )
                self._borrows = self._borrows or isinstance(value, nn.Parameter)
                self._take(name, value)
        self._known |= new
        self._has_run = True

    def _take(self, name: str, value: Tensor) -> None:
        store = pyro.get_param_store()
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())
        constraint = store.get_state()["constraints"][name]
        store.set_state({"params": {name: parameter}, "constraints": {name: constraint}})
        self.adopted.append(parameter)
        self._adopted_names.append(name)
        self._constraints[name] = constraint

    def independent_copy(self, memo: dict[int, Any]) -> GenerativeModel:
        """Return a copy that shares no parameter with this one.

        Args:
            memo: the memo of `copy.deepcopy`, to keep what is shared with other copied objects shared among the copies.

        Raises:
            ModelError: the model is a function that uses the modules around it, which a copy could not own.
        """
        if self._borrows:
            raise ModelError(
                "the model is a function that registers modules from outside with pyro.module, so a copy of it would "
                "still train the same modules: write it as a PyroModule that has them as attributes, or train it "
                "once and compare families with freeze_model=True."
            )
        return copy.deepcopy(self, memo)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let new tensors be of ``dtype`` inside; the caller's default comes back."""
    default = torch.get_default_dtype()
    if dtype == default:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
