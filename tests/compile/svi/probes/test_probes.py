"""No program, however hostile, gets other numbers than Pyro's without a word."""

import warnings

import pyro
import pytest

from amortvi.errors import AmortviWarning, VerificationWarning
from tests.compile.svi.probes import (
    ambient,
    argument_objects,
    arguments,
    attributes,
    batches,
    callables,
    clocks_and_files,
    containers,
    contexts,
    control_flow,
    data_sources,
    distributions,
    functions,
    gradients,
    hooks,
    interface,
    iterators,
    losses,
    modules,
    objects,
    optimizer_state,
    optimizers,
    parameters,
    pyro_handlers,
    randomness,
    tensors,
    values,
)
from tests.compile.svi.probes.engine import as_table, examine, has_effect
from tests.compile.svi.probes.programs import CHANGE_AT, Probe, Verdict

TOPICS = (
    objects,
    attributes,
    functions,
    callables,
    containers,
    values,
    ambient,
    clocks_and_files,
    iterators,
    randomness,
    tensors,
    data_sources,
    arguments,
    argument_objects,
    batches,
    parameters,
    gradients,
    modules,
    hooks,
    pyro_handlers,
    distributions,
    optimizers,
    optimizer_state,
    losses,
    control_flow,
    contexts,
    interface,
)
PROBES = [each for topic in TOPICS for each in vars(topic).values() if isinstance(each, Probe)]


class Ignoring(pyro.infer.SVI):
    """Stops training when the state of the program changes, and repeats the last loss."""

    message: Warning | None = None
    calls = 0

    def step(self, *args, **kwargs):
        self.calls += 1
        if self.calls <= CHANGE_AT:
            self.last = super().step(*args, **kwargs)
        elif self.calls == CHANGE_AT + 1 and self.message is not None:
            warnings.warn(self.message, stacklevel=1)
        return self.last


class Reporting(Ignoring):
    message = VerificationWarning("numbers may be off since step 9")


class Refusing(pyro.infer.SVI):
    message = AmortviWarning("steps run without compiling: the model reads `args.scale`")

    def step(self, *args, **kwargs):
        warnings.warn(self.message, stacklevel=1)
        return super().step(*args, **kwargs)


class Vague(Refusing):
    message = AmortviWarning("steps run without compiling")


VERDICTS = {
    pyro.infer.SVI: Verdict.EQUAL,
    Refusing: Verdict.REFUSED,
    Vague: Verdict.UNNAMED,
    Reporting: Verdict.DETECTED,
    Ignoring: Verdict.WRONG,
}


@pytest.mark.parametrize("kind", VERDICTS, ids=lambda kind: kind.__name__)
def test_the_verdict_on_an_svi_with_a_known_fault(kind):
    assert examine(objects.namespace_in_a_closure, kind).verdict is VERDICTS[kind]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_program_is_equal_or_refused(probe):
    report = examine(probe)
    assert report.as_expected, f"{report.verdict.value}: {report.note}"


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_the_change_of_a_program_has_an_effect(probe):
    assert has_effect(probe)


def test_no_program_is_silently_wrong():
    reports = [examine(probe) for probe in PROBES]
    print("\n" + as_table(reports))
    assert [report.probe.name for report in reports if report.verdict is Verdict.WRONG] == []
