"""Pyro's stochastic variational inference, with compiled steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.infer
from pyro.infer import SVI as PyroSVI  # noqa: N811  # a class, although in capitals
from pyro.infer import JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch.optim import Optimizer

from amortvi._util.checks import positive_int
from amortvi.compile import COMPILE_AFTER, RECORD_AFTER, CompileChoice, Verify, check_compile_choice, check_verify
from amortvi.compile.recordable_optimizer import needs_closure
from amortvi.compile.svi.compiled_step import StepDefinition
from amortvi.compile.svi.dispatcher import DispatchOptions, StepDispatcher
from amortvi.compile.svi.renyi_elbo import RenyiELBO
from amortvi.compile.svi.torch_optim import TorchOptim
from amortvi.errors import OptionError

__all__ = ["SVI"]


class SVI(PyroSVI):
    """Drop-in replacement for `pyro.infer.SVI` with compiled steps.

    The arguments, the parameter store and, for the same seed, the results are those of Pyro up to rounding. After some eager
    steps, the whole step (loss, gradient, clipping and optimizers) is recorded as one graph, once per shape of the arguments,
    and then runs without Python code. Pyro's own estimators compute the loss and its gradient.

    A graph repeats the tensor operations of one call, so everything else must stay as it was. Tensors and Python floats in the
    arguments, such as a KL weight, may have new values in each step; parameters, buffers and other tensors may be changed in
    place. Integers, strings, shapes, the modes of modules, and all Python values that model and guide refer to (globals,
    closures, attributes, default arguments, contents of containers) are compared in each step, and a change leads to a new graph.
    A step that uses what cannot be compared, such as a clock, an iterator, or random numbers of Python, is refused: it stays
    Pyro's own, with one warning.

    Whatever escapes these comparisons is found by audits: the recorded steps 1, 2, 4, 8, ..., and then every thousandth are also
    taken by Pyro, from the same state and with the same random numbers. If the results differ, no further step is recorded.

    Recording runs model and guide once more, and restores the Python values and tensors that they change.

    `amortvi.svi.RenyiELBO`, which is correct for subsamples, always replaces Pyro's `RenyiELBO`.

    Args:
        model: a Pyro model.
        guide: a Pyro guide.
        optim: an optimizer or scheduler of `pyro.optim`, or an optimizer of `torch.optim`, which trains the parameters that it
            was constructed with. Updates by torch's own optimizers become part of the graph; all others stay eager.
        loss: an ELBO of `pyro.infer`, or a function of model, guide and arguments that returns a loss.
        loss_and_grads: as in Pyro, for a ``loss`` that is a function.
        compile: ``"auto"`` records a step after ``compile_after`` eager ones, and compiles the graph too if very many steps
            follow; if this is impossible, it issues a warning and runs Pyro's own step. ``True`` records and compiles from the
            second step, which takes some seconds, or raises an error. ``False`` always runs Pyro's own step.
        compile_after: the number of eager steps with one signature of arguments before it is recorded.
        verify: what to do if an audit fails after steps that were not audited: ``"warn"``, or ``"error"`` for a
            `VerificationError`.
        kwargs: further options of Pyro's SVI.

    Attributes:
        model: the model.
        guide: the guide.
        optim: the optimizer; an optimizer of torch is wrapped, and available as ``optim.optimizer``.
        loss: the function that estimates the loss.

    Raises:
        OptionError: an argument has the wrong type.

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
        compile_after: int = RECORD_AFTER,
        verify: Verify = "warn",
        **kwargs: Any,
    ) -> None:
        _check_callable("model", model)
        _check_callable("guide", guide)
        _check_loss(loss)
        choice, verify = check_compile_choice(compile), check_verify(verify)
        record_after = positive_int("compile_after", compile_after)
        if type(loss) is pyro.infer.RenyiELBO:
            loss = RenyiELBO.like(loss)
        super().__init__(  # type: ignore[no-untyped-call]  # Pyro's method is not annotated
            model, guide, _pyro_optim(optim), loss, loss_and_grads, **kwargs
        )
        self._estimator = loss
        self._dispatcher: StepDispatcher | None = None
        if choice is not False:
            if isinstance(loss, ELBO):
                self.loss_and_grads = _without_jit(loss)
            options = DispatchOptions(
                choice=choice,
                record_after=1 if choice is True else record_after,
                compile_after=0 if choice is True else COMPILE_AFTER,
                verify=verify,
                warns=isinstance(loss, ELBO),
            )
            self._dispatcher = StepDispatcher(partial(PyroSVI.step, self), self._define, options)

    @property
    def compilations(self) -> int:
        """The number of graphs recorded so far."""
        return 0 if self._dispatcher is None else self._dispatcher.recordings

    def explain(self) -> str:
        """Describe which steps run as graphs, what was refused, and why."""
        return "Every step is Pyro's own (compile=False)." if self._dispatcher is None else self._dispatcher.explain()

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step of the optimizer.

        Args:
            args: passed to model and guide.
            kwargs: passed to model and guide.

        Returns:
            The estimate of the loss before the update: a float, or a tuple of floats if the loss has several terms.

        Raises:
            CaptureError: ``compile`` is ``True`` and the step cannot be recorded or compiled.
            VerificationError: ``verify`` is ``"error"``, and earlier recorded steps may have been wrong.
        """
        if self._dispatcher is None:
            return super().step(*args, **kwargs)  # type: ignore[no-untyped-call]  # Pyro's method is not annotated
        return self._dispatcher.step(args, kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Take ``num_steps`` steps and draw from the guide, as in Pyro, where the method is deprecated."""
        for _ in range(self.num_steps):
            self.step(*args, **kwargs)
        num_steps, self.num_steps = self.num_steps, 0
        try:
            return super().run(*args, **kwargs)  # type: ignore[no-untyped-call]  # Pyro's method is not annotated
        finally:
            self.num_steps = num_steps

    def _define(self) -> StepDefinition:
        # The depth of nested plates is not an option: the first step infers it.
        options = [
            value
            for name, value in vars(self._estimator).items()
            if isinstance(value, int | float | str) and name != "max_plate_nesting"
        ]
        return StepDefinition(self.model, self.guide, self.optim, self.loss_and_grads, options)


_JIT: tuple[Any, ...] = (JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO)


def _without_jit(loss: Any) -> Callable[..., Any]:
    """Return the estimator of a loss and its gradient, without compilation by Pyro."""
    for jit in _JIT:
        if type(loss).loss_and_grads is jit.loss_and_grads:
            return super(jit, loss).loss_and_grads
    return loss.loss_and_grads


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise OptionError(f"{name} must be a callable Pyro {name}; got {type(value).__name__}.")


def _check_loss(loss: object) -> None:
    if isinstance(loss, type):
        raise OptionError(f"loss must be an instance, not the class {loss.__name__}: write {loss.__name__}().")
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
            f"optim must be an optimizer of pyro.optim, such as pyro.optim.Adam({{'lr': 0.001}}), or of torch.optim; got "
            f"{type(optim).__name__}."
        )
    if needs_closure(optim):
        raise OptionError(
            f"optim must be an optimizer that needs one evaluation of the loss per step; {type(optim).__name__} needs several: "
            f"use Adam, for example."
        )
    return TorchOptim(optim)
