"""The probabilities of labels that an estimator predicts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from amortvi.inference.analysis import PosteriorAnalysis

__all__ = ["LabelPrediction"]


class LabelPrediction(PosteriorAnalysis):
    """The classifier of an estimator with ``labels=``, beside what other computations an estimator provides."""

    def predict_proba(self, x: Any) -> Tensor:
        """Return the probabilities of the labels of each observation, ``q(y | x)``, from an estimator with ``labels=``.

        Args:
            x: observations, as for `fit`, or without the labels, which are not read.

        Returns:
            ``(N, M)``, one column for each label.

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
            OptionError: the estimator has no ``labels=``.

        Example:
            >>> import pyro, torch, amortvi as avi
            >>> from pyro import distributions as dist
            >>> def model(x, y):
            ...     with pyro.plate("data", x.shape[0]):
            ...         y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2), obs=y.clamp(min=0), obs_mask=y >= 0)
            ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
            ...         pyro.sample("x", dist.Normal(6.0 * y + z, 1.0), obs=x)
            >>> y = torch.arange(200) % 2
            >>> x = 6.0 * y + 1.4 * torch.randn(200, generator=torch.Generator().manual_seed(0))
            >>> y[20:] = -1  # missing
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(1, [16]), labels="y")
            >>> vi = vi.fit((x, y), epochs=100, seed=0, progress=False)
            >>> vi.predict_proba(torch.tensor([0.0, 6.0])).argmax(-1)
            tensor([0, 1])
        """
        return self.posterior(x, copy=False).label_probs
