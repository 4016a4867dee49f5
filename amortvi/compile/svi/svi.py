"""Stochastic variational inference as Pyro has it, its step compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import pyro.infer
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch.optim import Optimizer

from amortvi.compile.recordable_optimizer import needs_closure
from amortvi.compile.svi.plan import Ingredients
from amortvi.compile.svi.renyi_elbo import RenyiELBO
from amortvi.compile.svi.stepper import Stepper
from amortvi.compile.svi.torch_optim import TorchOptim
from amortvi.errors import OptionError
from amortvi.training.steps import CompileChoice, is_compile_choice

__all__ = ["SVI"]


class SVI(pyro.infer.SVI):
    """Pyro's `pyro.infer.SVI`, with a step that is compiled.

    It takes the place of Pyro's by a change of one line: same arguments, same numbers from the same seed, same parameter
    store. After some steps of Pyro's own the whole step (loss, gradient, clipping, optimizers) is recorded as one graph and
    compiled, once for each shape of the arguments. Loss and gradient are those of Pyro's own estimators.

    While a step is compiled, Python's part of model and guide does not run. So what they do must depend on their arguments,
    on parameters, and on buffers of modules; tensors that they find elsewhere may be changed in place, but not be replaced.
    Tensors and Python floats among the arguments may have another value at each step, such as the weight of a KL that rises;
    other arguments (integers, strings, flags), shapes, and the mode of each module get a graph for each of their values.

    Pyro's `RenyiELBO` is replaced by `amortvi.compile.svi.RenyiELBO`, which is right for subsamples, whether or not steps are
    compiled.

    Args:
        model: any Pyro model.
        guide: any Pyro guide.
        optim: an optimizer of `pyro.optim`, schedulers among them, or one of `torch.optim`, which trains the parameters that
            it was made for. Optimizers of torch become part of the graph, others update eagerly.
        loss: an ELBO of `pyro.infer`, or a function of model, guide and arguments that returns a loss.
        loss_and_grads: as in Pyro, for a ``loss`` that is a function.
        compile: ``"auto"`` compiles what has come 2000 times, and falls back to Pyro's own step, with a warning, where a step
            cannot be compiled; ``True`` compiles from the second step, or raises; ``False`` never compiles.
        kwargs: further options of Pyro's.

    Attributes:
        model: the model.
        guide: the guide.
        optim: the optimizer; one of torch inside a wrapper, which has it as ``optimizer``.
        loss: the function that estimates the loss.

    Raises:
        OptionError: an argument is of a wrong type.

    Example:
        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("loc", dist.Delta(pyro.param("mode", torch.zeros(()))))
        >>> pyro.clear_param_store()
        >>> svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1}), pyro.infer.Trace_ELBO(), compile=False)
        >>> losses = [svi.step(torch.ones(4)) for _ in range(100)]
        >>> round(pyro.param("mode").item(), 3)  # 4 / (4 + 1)
        0.8
        >>> pyro.clear_param_store()
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim | Optimizer,
        loss: ELBO | Callable[..., Any],
        loss_and_grads: Callable[..., Any] | None = None,
        *,
        compile: CompileChoice = "auto",
        **kwargs: Any,
    ) -> None:
        _check_callable("model", model)
        _check_callable("guide", guide)
        _check_loss(loss)
        if not is_compile_choice(compile):
            raise OptionError(f'compile must be True, False or "auto"; got {compile!r}.')
        if type(loss) is pyro.infer.RenyiELBO:
            loss = RenyiELBO.like(loss)
        super().__init__(  # type: ignore[no-untyped-call]  # Pyro's method, not annotated
            model, guide, _pyro_optim(optim), loss, loss_and_grads, **kwargs
        )
        self._estimator = loss
        self._stepper: Stepper | None = None
        if compile is not False:
            if isinstance(loss, ELBO):
                self.loss_and_grads = _without_jit(loss)
            self._stepper = Stepper(
                partial(pyro.infer.SVI.step, self), self._ingredients, compile, warns=isinstance(loss, ELBO)
            )

    @property
    def compilations(self) -> int:
        """How many graphs have been compiled."""
        return 0 if self._stepper is None else self._stepper.compilations

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step of the optimizer.

        Args:
            args: given to model and guide.
            kwargs: given to model and guide.

        Returns:
            The estimate of the loss before the step, a float; a tuple of floats for a loss that has several.

        Raises:
            CaptureError: with ``compile=True``, the step cannot be compiled; nothing was changed.
        """
        if self._stepper is None:
            return super().step(*args, **kwargs)  # type: ignore[no-untyped-call]  # Pyro's method, not annotated
        return self._stepper.step(args, kwargs)

    def _ingredients(self) -> Ingredients:
        # How deep plates are nested is found out at the first step, and is no option.
        options = [
            value
            for name, value in vars(self._estimator).items()
            if isinstance(value, int | float | str) and name != "max_plate_nesting"
        ]
        return Ingredients(self.model, self.guide, self.optim, self.loss_and_grads, options)


_WITHOUT_JIT = (
    (JitTrace_ELBO, Trace_ELBO),
    (JitTraceMeanField_ELBO, TraceMeanField_ELBO),
    (JitTraceEnum_ELBO, TraceEnum_ELBO),
    (JitTraceGraph_ELBO, TraceGraph_ELBO),
)


def _without_jit(loss: Any) -> Callable[..., Any]:
    """Return a loss's estimator, not compiled by Pyro."""
    for jit, plain in _WITHOUT_JIT:
        if type(loss).loss_and_grads is jit.loss_and_grads:
            return MethodType(plain.loss_and_grads, loss)
    return loss.loss_and_grads


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise OptionError(f"{name} must be a Pyro {name}, that is, callable; got {type(value).__name__}.")


def _check_loss(loss: object) -> None:
    if isinstance(loss, type):
        raise OptionError(f"loss must be a loss, not a class; got {loss.__name__}: write {loss.__name__}().")
    if not isinstance(loss, ELBO) and not callable(loss):
        raise OptionError(
            f"loss must be an ELBO of pyro.infer, such as Trace_ELBO(), or a function of model, guide and arguments; got "
            f"{type(loss).__name__}."
        )


def _pyro_optim(optim: object) -> PyroOptim:
    if isinstance(optim, PyroOptim):
        return optim
    if not isinstance(optim, Optimizer):
        raise OptionError(
            f"optim must be an optimizer of pyro.optim, such as pyro.optim.Adam({{'lr': 0.001}}), or one of torch.optim; got "
            f"{type(optim).__name__}."
        )
    if needs_closure(optim):
        raise OptionError(
            f"optim must be an optimizer that takes one loss a step; {type(optim).__name__} asks for several: take Adam."
        )
    return TorchOptim(optim)
