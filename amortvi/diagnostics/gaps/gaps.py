r"""The inference gap of each observation, split between family and encoder (Cremer, Li and Duvenaud, 2018).

With :math:`q^*` the best posterior of the same family for one observation,

.. math::

    \underbrace{\log p(x) - L[q]}_{\text{inference gap}}
      = \underbrace{\log p(x) - L[q^*]}_{\text{approximation gap: the family}}
      + \underbrace{L[q^*] - L[q]}_{\text{amortization gap: the encoder}} .

:math:`q^*` is found by refinement. The evidence is estimated by importance sampling, with a defensive mixture around the
refined posterior of the best family as proposal (see `amortvi.diagnostics.gaps.defensive`). K-hat indicates for which
observations the estimate is reliable. What the proposal misses altogether, such as a second mode, is found on simulated data
(see `amortvi.diagnostics.missed_mass`), and added to the evidence: refinement within the family does not find it, so it is part
of the approximation gap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from amortvi._util.checks import nonnegative_int, positive_float, positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.text import capitalized, html_summary, with_error
from amortvi.diagnostics.evidence import Evidence, evidence
from amortvi.diagnostics.gaps.defensive import defensive
from amortvi.diagnostics.missed_mass import check_simulations, simulate_like
from amortvi.diagnostics.simulation import Simulated
from amortvi.errors import AmortviError, OptionError
from amortvi.families import FamilyChoice, family_label, require_parametric, resolve_family
from amortvi.inference import AmortizedVI

__all__ = ["FEWEST_DRAWS", "Gaps", "Verdict", "gaps"]

Verdict: TypeAlias = Literal["ok", "family", "encoder", "unreliable"]

FEWEST_DRAWS = 21
"""The fewest draws from which k-hat can be estimated."""
_VERDICTS: tuple[Verdict, ...] = ("ok", "family", "encoder", "unreliable")
_REFINE_TOLERANCE = 0.01
"""The tolerance of the refinements relative to that of the verdicts, so that their error does not affect the verdicts."""


@dataclass(frozen=True)
class Gaps:
    """The gaps between evidence and ELBO for each of ``N`` observations, in nats.

    Args:
        family: the label of the family of the posterior.
        amortized: ELBO, k-hat and effective sample size of the amortized posterior.
        refined: the same for the refined posterior of each family, including ``family``, by label.
        proposed: the evidence, estimated with a defensive mixture around the best refined posterior.
        tolerance: the largest inference gap that is ok.
        index: the user's labels of the observations, if any.
    """

    family: str
    amortized: Evidence
    refined: Mapping[str, Evidence]
    proposed: Evidence
    tolerance: float
    index: Any | None = None

    @property
    def missed(self) -> Tensor:
        """What the proposal misses of the evidence according to simulated data, ``(N,)``; zero if it is not significant."""
        found = self.proposed.missed
        return torch.zeros_like(self.proposed.smoothed) if found is None else found.nats

    @property
    def evidence(self) -> Tensor:
        """``log p(x)``, ``(N,)``, including `missed`."""
        return self.proposed.smoothed + self.missed

    @property
    def evidence_se(self) -> Tensor:
        """The standard error of `evidence`, ``(N,)``, from the draws and the simulations."""
        found, error = self.proposed.missed, self.proposed.standard_error
        return error if found is None else (error.square() + found.nats_se.square()).sqrt()

    @property
    def approximation(self) -> Tensor:
        """The approximation gap, ``(N,)``: the evidence minus the ELBO of the refined posterior of the same family."""
        return self.evidence - self.refined[self.family].elbo

    @property
    def amortization(self) -> Tensor:
        """The amortization gap, ``(N,)``: the ELBO of the refined posterior minus that of the amortized one."""
        return self.refined[self.family].elbo - self.amortized.elbo

    @property
    def inference(self) -> Tensor:
        """The inference gap, ``(N,)``: the evidence minus the ELBO of the amortized posterior."""
        return self.evidence - self.amortized.elbo

    @property
    def inference_se(self) -> Tensor:
        """The standard error of `inference`, ``(N,)``, from the draws and the simulations."""
        return (self.evidence_se.square() + self.amortized.elbo_se.square()).sqrt()

    @property
    def reliable(self) -> Tensor:
        """Whether the evidence is finite and its weights, and those of similar simulated observations, light-tailed, ``(N,)``.

        If simulated data show that the weights miss something, that is included in `evidence`.
        """
        found = self.proposed
        known = found.light_tailed if found.missed is None else found.light_tailed & ~found.missed.unjudged
        return known & torch.isfinite(self.inference)

    @property
    def verdict(self) -> list[Verdict]:
        """The verdict for each observation: ``"ok"``, ``"family"``, ``"encoder"`` or ``"unreliable"``.

        It is ``"unreliable"`` if the estimate of the evidence is unreliable (its k-hat is above the threshold), and ``"ok"`` if
        the inference gap exceeds the tolerance by at most two standard errors. Otherwise the larger of the other two gaps
        decides.
        """
        ok = self.inference <= self.tolerance + 2 * self.inference_se
        larger = torch.where(self.approximation >= self.amortization, 1, 2)
        code = torch.where(self.reliable, torch.where(ok, 0, larger), 3)
        return [_VERDICTS[i] for i in code.tolist()]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per observation, in nats except ``k_hat`` and ``ess``, which are those of the amortized posterior."""
        columns: dict[str, Any] = {
            "evidence": self.evidence,
            "evidence_se": self.evidence_se,
            "missed": self.missed,
            "elbo": self.amortized.elbo,
            **{f"elbo_{label}": found.elbo for label, found in self.refined.items()},
            "approximation_gap": self.approximation,
            "amortization_gap": self.amortization,
            "inference_gap": self.inference,
            "k_hat": self.amortized.k_hat,
            "ess": self.amortized.effective_sample_size,
        }
        arrays = {name: value.numpy() for name, value in columns.items()}
        return pd.DataFrame({**arrays, "verdict": self.verdict}, index=self.index)

    def summary(self) -> pd.DataFrame:
        """Return the mean of each quantity over the reliable observations, in nats, one row per quantity.

        Columns are ``mean``, ``se`` (its standard error) and ``count``, the number of reliable observations. The evidence of the
        others, and with it the approximation gap, is usually underestimated.
        """
        values = self.to_frame().drop(columns=["verdict", "evidence_se", "k_hat", "ess"])[self.reliable.numpy()]
        return pd.DataFrame({"mean": values.mean(), "se": values.sem(), "count": len(values)})

    def verdicts(self) -> dict[Verdict, int]:
        """Return the number of observations with each verdict."""
        found = self.verdict
        return {verdict: found.count(verdict) for verdict in _VERDICTS}

    def _repr_html_(self) -> str:
        means = self.summary()
        counts = ", ".join(f"{verdict} {count}" for verdict, count in self.verdicts().items() if count)
        return html_summary(
            f"Gaps of {self.family}",
            {"observations": counts},
            header=["mean over reliable observations", "nats ± standard error"],
            rows=[
                (name.replace("_", " "), with_error(mean, error))
                for name, mean, error, _ in means.itertuples(name=None)
            ],
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{verdict}: {count}" for verdict, count in self.verdicts().items() if count)
        check = self.proposed.missed
        missed = "" if check is None or (check.known and not bool(self.missed.any())) else f" {capitalized(str(check))}"
        inference, approximation, amortization = (
            float(gap[self.reliable].mean()) for gap in (self.inference, self.approximation, self.amortization)
        )
        return (
            f"Gaps of {self.family!r} over {len(self.evidence)} observations (mean, nats): inference {inference:.3f} = "
            f"approximation {approximation:.3f} (family) + amortization {amortization:.3f} (encoder). Verdicts: {counts}."
            f"{missed}"
        )

    __repr__ = __str__


def gaps(
    vi: AmortizedVI,
    x: Any,
    families: Sequence[FamilyChoice] = ("full",),
    *,
    draws: int = 1000,
    simulations: int | Simulated = 300,
    tolerance: float = 0.1,
    seed: int = 0,
) -> Gaps:
    """Split the inference gap of each observation into the approximation gap (family) and the amortization gap (encoder).

    Args:
        vi: a fitted estimator, whose family can be refined.
        x: observations, as for `AmortizedVI.fit`.
        families: other families to refine. The evidence is estimated with the best of all, so include an expressive one.
        draws: draws for each bound and for the evidence; k-hat needs at least 21 and is more precise with a thousand.
        simulations: the number of observations that are simulated, to find out whether the estimate of the evidence misses a
            part of the exact posterior, or the result of `simulate_observations`; 0 omits this check.
        tolerance: the largest inference gap that is ok, in nats.
        seed: the seed of all draws; the caller's random state is left untouched.

    Returns:
        The gaps; `Gaps.to_frame` returns one row per observation.

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations cannot be used.
        FamilyError: a family is unknown, cannot be refined, or cannot start from the posterior of another family.
        OptionError: an option is out of range.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=400, lr=0.02, progress=False, seed=0)
        >>> found = avi.gaps(vi, x)
        >>> abs(found.approximation.mean() - model.diagonal_gap()) < 0.05, found.verdicts()["family"]
        (tensor(True), 20)
    """
    count, seed = positive_int("draws", draws, at_least=FEWEST_DRAWS), nonnegative_int("seed", seed)
    tolerance, simulations = positive_float("tolerance", tolerance), check_simulations(simulations)
    # Data that may be random at each reading are read once, so that all bounds are about the same data.
    amortized = vi.posterior(x).in_memory()
    own, precision = amortized.label, _REFINE_TOLERANCE * tolerance
    others = _other_families(families, own)
    refined = {own: vi.refine(posterior=amortized, tolerance=precision, seed=seed)}
    for label, family in others.items():
        refined[label] = vi.refine(family=family, posterior=refined[own], tolerance=precision, seed=seed)
    if simulations != 0:
        with contextlib.suppress(AmortviError):  # if the model cannot be simulated, `evidence` reports why
            simulations = simulate_like(vi, amortized, simulations, seed=seed)
    # With one seed for all, similar posteriors have similar draws, so the difference of their bounds has little noise.
    bounds = {
        label: evidence(vi, posterior=each, draws=count, simulations=0, seed=seed) for label, each in refined.items()
    }
    # The best family has the largest sum over the observations that have a bound in every family.
    known = torch.stack([found.elbo.isfinite() for found in bounds.values()]).all(0)
    best = max(bounds, key=lambda label: float(bounds[label].elbo[known].sum()))
    return Gaps(
        family=own,
        amortized=evidence(vi, posterior=amortized, draws=count, simulations=simulations, seed=seed),
        refined=bounds,
        proposed=evidence(vi, posterior=defensive(refined[best]), draws=count, simulations=simulations, seed=seed),
        tolerance=tolerance,
        index=amortized.index,
    )


def _other_families(families: Sequence[FamilyChoice], own: str) -> dict[str, FamilyChoice]:
    """Return the families other than the posterior's own, by label."""
    if isinstance(families, str) or not isinstance(families, Sequence):
        raise OptionError(f"families must be a list of families, such as ['low_rank', 'full']; got {families!r}.")
    for family in families:
        require_parametric(resolve_family(family), "gaps")
    labels = [family_label(family) for family in families]
    if len(set(labels)) != len(labels):
        raise OptionError(f"families must have different labels; got {labels}.")
    return {label: family for label, family in zip(labels, families, strict=True) if label != own}
