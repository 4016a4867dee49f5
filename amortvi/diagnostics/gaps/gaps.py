r"""Where the nats go that separate the ELBO of an amortized posterior from the evidence (Cremer, Li and Duvenaud, 2018).

With :math:`q^*` the best posterior of the same family for one observation,

.. math::

    \underbrace{\log p(x) - L[q]}_{\text{inference gap}}
      = \underbrace{\log p(x) - L[q^*]}_{\text{approximation gap: the family}}
      + \underbrace{L[q^*] - L[q]}_{\text{amortization gap: the encoder}} .

:math:`q^*` is found by refinement, and the evidence by importance sampling from the refined posterior of the family that comes
closest, in a defensive mixture (see `amortvi.diagnostics.gaps.defensive`); it is known as far as those weights can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from amortvi._util.checks import nonnegative_int, positive_float, positive_int
from amortvi._util.lazy import pandas as pd
from amortvi.diagnostics.evidence.evidence import Evidence, evidence
from amortvi.diagnostics.gaps.defensive import defensive
from amortvi.errors import OptionError
from amortvi.families import FamilyChoice, family_label
from amortvi.families import resolve as resolve_family
from amortvi.inference import AmortizedVI

__all__ = ["FEWEST_DRAWS", "Gaps", "Verdict", "gaps"]

Verdict: TypeAlias = Literal["fine", "family", "encoder", "do not trust"]

FEWEST_DRAWS = 21
_CLOSER = 0.01

VERDICTS: tuple[Verdict, ...] = ("fine", "family", "encoder", "do not trust")


@dataclass(frozen=True)
class Gaps:
    """What the posterior of each of ``N`` observations loses, and to what; all in nats.

    Args:
        family: the label of the posterior's own family.
        amortized: bounds, k-hat and effective sample size of the amortized posterior.
        refined: the same of the refined posterior of each family, by label; the own one among them.
        proposed: the evidence, from the refined posterior that comes closest, with a part of the draws from heavier tails.
        tolerance: how much may be lost and still be fine.
        index: the user's labels of the observations, where there are any.
    """

    family: str
    amortized: Evidence
    refined: Mapping[str, Evidence]
    proposed: Evidence
    tolerance: float
    index: Any | None = None

    @property
    def evidence(self) -> Tensor:
        """``log p(x)``, ``(N,)``."""
        return self.proposed.smoothed

    @property
    def evidence_se(self) -> Tensor:
        """Its Monte Carlo standard error, ``(N,)``."""
        return self.proposed.standard_error

    @property
    def approximation(self) -> Tensor:
        """What the family loses, ``(N,)``: the evidence less the ELBO of its refined posterior."""
        return self.evidence - self.refined[self.family].elbo

    @property
    def amortization(self) -> Tensor:
        """What the encoder loses, ``(N,)``: the ELBO of the refined posterior less that of the amortized one."""
        return self.refined[self.family].elbo - self.amortized.elbo

    @property
    def inference(self) -> Tensor:
        """What is lost in all, ``(N,)``: the evidence less the ELBO of the amortized posterior."""
        return self.evidence - self.amortized.elbo

    @property
    def inference_se(self) -> Tensor:
        """The Monte Carlo standard error of `inference`, ``(N,)``."""
        return (self.evidence_se.square() + self.amortized.elbo_se.square()).sqrt()

    @property
    def trusted(self) -> Tensor:
        """Whether the evidence is known, ``(N,)``: the weights that it comes from are not too heavy-tailed."""
        return self.proposed.reliable & torch.isfinite(self.inference)

    @property
    def verdict(self) -> list[Verdict]:
        """For each observation ``"fine"``, ``"family"``, ``"encoder"`` or ``"do not trust"``.

        Not to be trusted is an evidence whose weights are too heavy-tailed (k-hat above its threshold). Fine is a loss within
        the tolerance, two standard errors allowed for. Otherwise the larger of the two gaps names the fault.
        """
        fine = self.inference <= self.tolerance + 2 * self.inference_se
        of_family = self.approximation >= self.amortization
        code = torch.where(fine, 0, torch.where(of_family, 1, 2))
        return [VERDICTS[i] for i in torch.where(self.trusted, code, 3).tolist()]

    def to_frame(self) -> pd.DataFrame:
        """Return a row an observation, all in nats but ``k_hat`` and ``ess``, which are of the amortized posterior."""
        columns: dict[str, Any] = {
            "evidence": self.evidence,
            "evidence_se": self.evidence_se,
            "elbo": self.amortized.elbo,
        }
        columns |= {f"elbo_{label}": found.elbo for label, found in self.refined.items()}
        columns |= {
            "approximation_gap": self.approximation,
            "amortization_gap": self.amortization,
            "inference_gap": self.inference,
            "k_hat": self.amortized.k_hat,
            "ess": self.amortized.effective_sample_size,
        }
        arrays = {name: value.numpy() for name, value in columns.items()}
        return pd.DataFrame({**arrays, "verdict": self.verdict}, index=self.index)

    def summary(self) -> pd.DataFrame:
        """Return the means over the observations whose evidence is known, with their standard errors, a row a quantity, in nats.

        ``count`` is how many these are; the evidence of the others tends to be too low, and the family's loss with it.
        """
        values = self.to_frame().drop(columns=["verdict", "evidence_se", "k_hat", "ess"])[self.trusted.numpy()]
        return pd.DataFrame({"mean": values.mean(), "se": values.sem(), "count": len(values)})

    def verdicts(self) -> dict[Verdict, int]:
        """Return how many observations got each verdict."""
        found = self.verdict
        return {verdict: found.count(verdict) for verdict in VERDICTS}

    def __str__(self) -> str:
        counts = ", ".join(f"{verdict}: {count}" for verdict, count in self.verdicts().items() if count)
        means = {
            name: float(getattr(self, name)[self.trusted].mean())
            for name in ("inference", "approximation", "amortization")
        }
        return (
            f"Gaps of {self.family!r} over {len(self.evidence)} observations (mean, nats): inference {means['inference']:.3f} = "
            f"approximation {means['approximation']:.3f} (family) + amortization {means['amortization']:.3f} (encoder). "
            f"Verdicts: {counts}."
        )

    __repr__ = __str__


def gaps(
    vi: AmortizedVI,
    x: Any,
    families: Sequence[FamilyChoice] = ("full",),
    *,
    draws: int = 1000,
    tolerance: float = 0.1,
    seed: int = 0,
) -> Gaps:
    """Take apart what the posterior of each observation loses: to its family, and to the encoder.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`.
        families: families to refine beside the posterior's own. The one that comes closest gives the evidence, so a rich
            one should be among them.
        draws: for each bound and for the evidence, at least 21, from which on there is a k-hat; a thousand tell more.
        tolerance: in nats; a loss up to this is fine.
        seed: of all draws; the caller's random state stays as it was.

    Returns:
        The gaps; `Gaps.to_frame` has a row an observation.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used.
        FamilyError: a family is unknown, or cannot start from the posterior of another.
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
    count, seed = positive_int("draws", draws), nonnegative_int("seed", seed)
    if count < FEWEST_DRAWS:
        raise OptionError(f"draws must be at least {FEWEST_DRAWS}, the fewest that have a k-hat; got {count}.")
    positive_float("tolerance", tolerance)
    # Held, so that data that are drawn anew at each reading are the same for every bound.
    amortized = vi.posterior(x).in_memory()
    own = amortized.label
    chosen = _others(families, own)
    # Far closer than what a verdict is about. The other families start where the own one ended.
    refined = {own: vi.refine(amortized, tolerance=_CLOSER * tolerance, seed=seed)}
    for label, family in chosen.items():
        refined[label] = vi.refine(refined[own], family, tolerance=_CLOSER * tolerance, seed=seed)
    # One seed for all: posteriors that are alike then have alike draws, and their difference little noise.
    weighed = {label: evidence(vi, posterior, draws=count, seed=seed) for label, posterior in refined.items()}
    # By the observations that all of them have a bound for: one that has none must not decide for the others.
    known = torch.stack([found.elbo.isfinite() for found in weighed.values()]).all(0)
    closest = max(weighed, key=lambda label: float(weighed[label].elbo[known].sum()))
    return Gaps(
        family=own,
        amortized=evidence(vi, amortized, draws=count, seed=seed),
        refined=weighed,
        proposed=evidence(vi, defensive(refined[closest]), draws=count, seed=seed),
        tolerance=tolerance,
        index=amortized.index,
    )


def _others(families: Sequence[FamilyChoice], own: str) -> dict[str, FamilyChoice]:
    """Return the families beside the own one, by their labels."""
    if isinstance(families, str) or not isinstance(families, Sequence):
        raise OptionError(f"families must be a list of families, such as ['low_rank', 'full']; got {families!r}.")
    for family in families:
        resolve_family(family)
    labels = [family_label(family) for family in families]
    if len(set(labels)) != len(labels):
        raise OptionError(f"families must have different labels; got {labels}.")
    return {label: family for label, family in zip(labels, families, strict=True) if label != own}
