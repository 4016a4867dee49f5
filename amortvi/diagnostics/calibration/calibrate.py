"""Calibration of a posterior against truth drawn from its own model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from amortvi._util.checks import positive_int
from amortvi._util.lazy import special
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import Observations
from amortvi.diagnostics.c2st import compare_pairs
from amortvi.diagnostics.calibration.coverage import coverage_test
from amortvi.diagnostics.calibration.findings import Finding
from amortvi.diagnostics.calibration.moments import correlation_test, location_test, spread_test
from amortvi.diagnostics.calibration.quantities import Compare
from amortvi.diagnostics.calibration.ranks import shape_of, uniformity
from amortvi.diagnostics.calibration.result import Calibration, CalibrationTest, corrected
from amortvi.diagnostics.simulation.simulate import Simulator, simulate_observations
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.posterior.evaluation import weigh
from amortvi.posterior.posterior import Posterior

__all__ = ["calibrate"]

_LEAST_SIMULATIONS = 20
_LEAST_DRAWS = 10
_FOLDS = 5


def calibrate(
    vi: AmortizedVI,
    simulations: int = 1000,
    draws: int = 200,
    x: Any = None,
    *,
    posterior: Callable[[Observations], Posterior] | None = None,
    simulator: Simulator | None = None,
    classifier: bool = False,
    seed: int | None = None,
) -> Calibration:
    """Draw latents from the prior and data from the model, and see whether the posteriors are right about the latents.

    The tests, by the ``kind`` in the result:

    - ``marginal``: ranks of each unconstrained latent among the draws are uniform (Talts et al., 2018). They cannot see a
      missing correlation. Statistic: the Kolmogorov-Smirnov distance.
    - ``joint``: so are ranks of the log-likelihood and of the log joint density (Modrák et al., 2023), which see a
      posterior that ignores the data as well, and of projections of the whitened latents. Statistic: the same.
    - ``coverage``: regions of highest density hold the truth as often as they claim (Hermans et al., 2022).
      ``"overconfident"`` where they hold it too rarely: too narrow, or beside it. Statistic: the area between coverage and
      diagonal above one half.
    - ``TARP``: so do balls around several random reference points (Lemos et al., 2023). Statistic: the same, their mean.
    - ``location``, ``spread``, ``correlation``: the truth in units of its posterior has mean zero, spread one and no
      correlation. Their verdicts name the fault: ``"shifted"``, ``"too narrow"``, ``"too wide"``, ``"blind to
      correlation"`` (a posterior without any), ``"wrong correlation"``. A location that is off differently for each
      observation is a posterior too narrow for its own errors. Statistics: the largest mean distance in posterior standard
      deviations, the ratio of the truth's spread to the posterior's, the largest correlation left.
    - ``classifier``: a network cannot tell the truth from a draw, given location and scale of the posterior (Lopez-Paz
      and Oquab, 2017). Statistic: its accuracy.

    An exact posterior passes all of them with a probability of at least 0.95, whatever the number of simulations; with more
    of them smaller faults are found. What is tested is how ``q`` does on the model's own data, not whether the model fits
    the world.

    Args:
        vi: a fitted estimator.
        simulations: ``n``, how many latents and observations to draw.
        draws: ``K``, how many draws of each posterior.
        x: observations whose sizes and covariates the simulations are for, taken in turn; by default a few of the training
            data.
        posterior: what gives the posteriors of the simulated observations; by default ``vi.posterior``. With
            ``lambda x: vi.refine(x)`` it is seen what is left when the encoder is not to blame.
        simulator: what draws latents and data instead of the model; see `simulate_observations`.
        classifier: whether to train a classifier as well (needs scikit-learn, extra ``diagnostics``).
        seed: reproduces all draws and leaves the caller's random state as it was.

    Returns:
        The tests with a verdict each, ranks and coverages.

    Raises:
        NotFittedError: the guide has not seen data yet.
        OptionError: ``simulations`` is below 20 or ``draws`` below 10, or ``posterior`` or ``simulator`` return something else
            than they should.
        ModelError: data cannot be simulated from the model; see `simulate_observations`.
        NonFiniteError: a density is not a number.
        MissingDependencyError: ``classifier=True`` and scikit-learn is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), scale=0.5)
        >>> x = model.simulate(500, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "diagonal", freeze_model=True)
        >>> vi = vi.fit(x, epochs=60, lr=0.02, seed=0, progress=False)
        >>> avi.calibrate(vi, 500, 100, seed=0).verdict
        'too narrow, blind to correlation'
    """
    count, per_simulation = positive_int("simulations", simulations), positive_int("draws", draws)
    if count < _LEAST_SIMULATIONS or per_simulation < _LEAST_DRAWS:
        raise OptionError(
            f"simulations must be at least {_LEAST_SIMULATIONS} and draws at least {_LEAST_DRAWS}; got {count} and "
            f"{per_simulation}."
        )
    own_seed = derived_seed(seed, Stream.CALIBRATION)
    with random_state(own_seed, vi.device):
        simulated = simulate_observations(vi, count, x, simulator=simulator)
        found = vi.posterior(simulated.observations) if posterior is None else posterior(simulated.observations)
        if not isinstance(found, Posterior) or len(found) != count:
            raise OptionError(
                f"posterior must return the Posterior of the {count} observations it is given; got {found!r}."
            )
        compare = Compare(vi.generative, found, simulated)
        gathered = weigh(vi.generative, found, per_simulation, compare, keep_draws=True)
    values = {name: value.numpy() for name, value in gathered.items()}
    tests = [
        *_rank_tests(dict(zip(compare.names, values["ranks"].T, strict=True)), found.latents.labels),
        _test("coverage", "regions of highest density", coverage_test(values["highest_density"])),
        _test("TARP", "balls around references", coverage_test(values["around_references"])),
        *_moment_tests(values, compare),
    ]
    if classifier:
        tests.append(_classifier_test(values, 0 if own_seed is None else own_seed))
    return Calibration(
        draws=per_simulation,
        tests=corrected(tests),
        ranks=dict(zip(compare.names, np.ascontiguousarray(values["ranks"].T), strict=True)),
        density_levels=values["highest_density"],
        reference_levels=values["around_references"],
        whitened=values["truth"],
    )


def _test(kind: str, quantity: str, finding: Finding) -> CalibrationTest:
    return CalibrationTest(kind, quantity, finding.statistic, finding.p_value, finding.p_value, finding.word)


def _rank_tests(ranks: dict[str, npt.NDArray[np.float64]], marginal: list[str]) -> list[CalibrationTest]:
    tests = []
    for name, found in ranks.items():
        distance, p_value = uniformity(found)
        is_marginal = name in marginal
        # Only of a latent does the shape of the ranks say how its posterior is off.
        word = shape_of(found) if is_marginal else "not calibrated"
        tests.append(_test("marginal" if is_marginal else "joint", name, Finding(distance, p_value, word)))
    return tests


def _moment_tests(values: dict[str, npt.NDArray[np.float64]], compare: Compare) -> list[CalibrationTest]:

    truth, scores, norm_scores = (
        values["truth"],
        special.ndtri(values["whitened_ranks"]),
        special.ndtri(values["norm_ranks"]),
    )
    tests = [
        _test("location", "whitened latents", location_test(truth, scores)),
        _test("spread", "whitened latents", spread_test(truth, scores, norm_scores, compare.second_moment)),
    ]
    if compare.dim > 1:
        found = correlation_test(truth, compare.second_moment, compare.own_correlation)
        tests.append(_test("correlation", "whitened latents", found))
    return tests


def _classifier_test(values: dict[str, npt.NDArray[np.float64]], seed: int) -> CalibrationTest:
    """Whether a network tells truth from draw; both rows of a simulation are left out of training together."""
    about = [values["loc"], values["log_scale"]]
    truth, draw = (np.concatenate([values[name], *about], axis=1) for name in ("truth", "draw"))
    found = compare_pairs(truth, draw, classifier="mlp", folds=_FOLDS, seed=seed)
    return _test("classifier", "truth and draw", Finding(found.accuracy, found.p_value, "not calibrated"))
