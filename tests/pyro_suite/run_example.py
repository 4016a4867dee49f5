"""One example program in a process of its own, with Pyro's `SVI` or with amortvi's; writes a report as JSON.

python run_example.py pyro|amortvi|compiled STEPS DATA REPORT PROGRAM [ARGUMENTS...]
"""

from __future__ import annotations

import json
import re
import runpy
import sys
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyro
import stand_ins
from swap_svi import OPTIONS

import amortvi
from amortvi.errors import AmortviWarning, VerificationWarning

sys.path.pop(0)  # the folder of this file, whose modules the example must not find


class EnoughStepsError(BaseException):
    """Ends an example. No example catches it, because it is not an `Exception`."""


def watch(svi_class: type, steps: int) -> tuple[list[Any], dict[int, Any]]:
    """Return the losses of all later steps of a class, and its instances; the example ends after ``steps`` steps."""
    losses: list[Any] = []
    instances: dict[int, Any] = {}
    original = svi_class.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, *args, **kwargs)
        instances[id(self)] = self
        losses.append(loss)
        if len(losses) == steps:
            raise EnoughStepsError
        return loss

    svi_class.step = step
    return losses, instances


def main(which: str, steps: str, data: str, report: str, program: str, *arguments: str) -> None:
    stand_ins.install(Path(data))
    source = Path(program).read_text()
    for version in re.findall(r'pyro\.__version__\.startswith\("(.*?)"\)', source):
        pyro.__version__ = version  # each example insists on the version that it was released with
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    pyro.set_rng_seed(0)
    losses, instances = watch(amortvi.svi.SVI if which in OPTIONS else pyro.infer.SVI, int(steps))
    installed = amortvi.svi.install(**OPTIONS[which]) if which in OPTIONS else nullcontext()
    error = None
    with warnings.catch_warnings(record=True) as caught, installed:
        warnings.simplefilter("always", AmortviWarning)
        try:
            runpy.run_path(program, run_name="__main__")
        except EnoughStepsError:
            pass
        except BaseException:
            error = traceback.format_exc(limit=-3)
    own = [each for each in caught if issubclass(each.category, AmortviWarning)]
    content = {
        "losses": losses,
        "error": error,
        "compilations": sum(getattr(svi, "compilations", 0) for svi in instances.values()),
        "explain": [svi.explain() for svi in instances.values() if which in OPTIONS],
        "refusals": [str(each.message) for each in own if not issubclass(each.category, VerificationWarning)],
        "differences": [str(each.message) for each in own if issubclass(each.category, VerificationWarning)],
    }
    Path(report).write_text(json.dumps(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
