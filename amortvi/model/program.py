"""The user's Pyro program as an `nn.Module` that owns its parameters, independent of Pyro's global param store."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from amortvi._util.lock import exclusive
from amortvi.errors import ModelError

__all__ = ["Program"]


class Program(nn.Module):
    """A Pyro callable that owns its parameters.

    Pyro has one param store per process, so two models with a parameter ``"scale"`` would share it. A program runs inside a
    private scope of the store: an `nn.Module` or `PyroModule` keeps its own parameters, and the parameters that a function
    creates with ``pyro.param`` are adopted at its first call. ``parameters()``, ``state_dict()``, ``to()`` and copying
    therefore work alike for all models, and the global store does not change.

    Args:
        model: a Pyro model: a function, a bound method of a module, an `nn.Module` or a `PyroModule`.

    Raises:
        ModelError: ``model`` is not callable.

    Example:
        >>> import pyro, torch
        >>> def model(x):
        ...     return pyro.param("scale", torch.tensor(2.0), constraint=pyro.distributions.constraints.positive) * x
        >>> program = Program(model)
        >>> float(program(torch.tensor(3.0)).detach())
        6.0
        >>> len(list(program.parameters())), "scale" in pyro.get_param_store()
        (1, False)
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        if not callable(model):
            raise ModelError(f"model must be a Pyro model, that is, callable; got {type(model).__name__}.")
        super().__init__()
        self.model = model
        if isinstance(model, MethodType) and isinstance(model.__self__, nn.Module):
            self.owner = model.__self__  # registers the parameters of the module whose method is the model
        self.adopted = nn.ParameterList()
        self._adopted_names: list[str] = []
        self._constraints: dict[str, Any] = {}
        self._known: set[str] = set()
        self._has_run = False
        self._is_running = False
        self._uses_outer_modules = False

    @property
    def signature(self) -> inspect.Signature:
        """The signature with which the model is called; raises `ValueError` if the callable has none."""
        return inspect.signature(self.model.forward if isinstance(self.model, nn.Module) else self.model)

    @property
    def uses_outer_modules(self) -> bool:
        """Whether the model has run and is a function that registers modules around it with ``pyro.module``."""
        return self._uses_outer_modules

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model inside its own parameter scope."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = next((value.device for value in tensors), None)
        # torch.zeros(8) in a model means "on the device of the data, in the type of the parameters".
        placement = contextlib.nullcontext() if device is None or device.type == "cpu" else device
        with self.own_parameters(), placement, _default_dtype(self._floating_type(tensors)):
            result = self.model(*args, **kwargs)
            self._adopt()
        return result

    def _floating_type(self, arguments: list[Tensor]) -> torch.dtype:
        """Return the type of the parameters or, without any, that of the data."""
        tensors = itertools.chain(self.parameters(), arguments)
        return next((value.dtype for value in tensors if value.is_floating_point()), torch.get_default_dtype())

    @contextlib.contextmanager
    def own_parameters(self) -> Iterator[None]:
        """Make the parameters of this program the content of Pyro's param store; restore the store on exit.

        Other threads wait until then, because the store, and the stack of Pyro's handlers, belong to the whole process.
        """
        with exclusive():
            if self._is_running:
                yield
                return
            params = dict(zip(self._adopted_names, self.adopted, strict=True))
            state: Any = {"params": params, "constraints": dict(self._constraints)}
            with pyro.get_param_store().scope(state):
                self._is_running = True
                try:
                    yield
                finally:
                    self._is_running = False

    def _adopt(self) -> None:
        """Take ownership of the parameters that ``pyro.param`` and ``pyro.module`` added to the store."""
        store = pyro.get_param_store()
        new = store.keys() - self._known
        own = {id(parameter) for parameter in self.parameters()} if new else set()
        for name in sorted(new):
            value = dict(store.named_parameters())[name]
            if id(value) in own:
                continue
            if self._has_run:
                raise ModelError(
                    f"the model created the parameter {name!r} after its first call, too late for the optimizer: create every "
                    f"parameter at each call, or in the constructor of a PyroModule."
                )
            self._uses_outer_modules = self._uses_outer_modules or isinstance(value, nn.Parameter)
            parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())
            constraint = store.get_state()["constraints"][name]
            store.set_state({"params": {name: parameter}, "constraints": {name: constraint}})
            self.adopted.append(parameter)
            self._adopted_names.append(name)
            self._constraints[name] = constraint
        self._known |= new
        self._has_run = True

    def independent_copy(self, memo: dict[int, Any]) -> Program:
        """Return a copy that shares no parameter with this program; ``memo`` is that of `copy.deepcopy`.

        Raises:
            ModelError: the model is a function that uses outer modules, which a copy cannot own.
        """
        if self._uses_outer_modules:
            raise ModelError(
                "the model is a function that registers outer modules with pyro.module, so a copy would train the same "
                "modules: write it as a PyroModule that has them as attributes, or train it once and compare families with "
                "freeze_model=True."
            )
        return copy.deepcopy(self, memo)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Create new tensors with ``dtype`` inside; restore the caller's default on exit."""
    default = torch.get_default_dtype()
    if dtype == default:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
