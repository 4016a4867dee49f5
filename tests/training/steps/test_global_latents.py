"""Steps that draw global latents."""

from functools import partial

import pytest
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

import amortvi as avi
from amortvi.compile.recording import Recording
from tests import global_latents as exact
from tests.training.steps.fits import assert_equal


@pytest.mark.parametrize("global_guide", [AutoNormal, AutoMultivariateNormal, AutoDelta])
@pytest.mark.parametrize("objective", [avi.objectives.ELBO(3), avi.objectives.IWAE(4)], ids=["elbo", "iwae"])
def test_recorded_steps_learn_the_same(
    global_guide: type, objective: avi.objectives.Objective, graphs: list[Recording]
) -> None:
    fit = partial(exact.fitted, exact.subsampled, global_guide=global_guide, epochs=12, objective=objective)
    assert_equal(fit(compile=True), fit(compile=False), 1e-9)
    assert len(graphs) == 1
    moved = (
        fit(compile=False).posterior(exact.X).median["mu"]
        - fit(compile=False, epochs=1).posterior(exact.X).median["mu"]
    )
    assert float(moved.abs()) > 0.01
