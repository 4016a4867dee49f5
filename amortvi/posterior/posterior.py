"""The posterior of given observations: moments, quantiles, draws and densities, computed on request."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.random import random_state
from amortvi.data import Chunk
from amortvi.errors import DataError, OptionError
from amortvi.posterior.deterministic import deterministic_sites, discrete_probs
from amortvi.posterior.importance_sampling import check_proposals, resample_chunk, warn_of_unreliable_draws
from amortvi.posterior.moments import DRAWS
from amortvi.posterior.non_finite import check_finite_results, check_rows, undefined
from amortvi.posterior.summaries import SummarizedPosterior

__all__ = ["Posterior"]

_PROBABILITIES = 0
"""The seed of the draws from which probabilities of discrete latents are estimated, so that they are reproducible."""


class Posterior(SummarizedPosterior):
    """``q(z | x)`` for each of ``N`` observations.

    It refers to the observations (to the user's own array if no conversion was needed: do not modify it). Everything is
    computed on request and in chunks: beyond the result itself, memory does not grow with ``N``. The values of a latent site
    have shape ``(N, *nested, *event)``: observations, nested plates, and one value in the site's own support. The
    ``pyro.deterministic`` sites inside the data plate come after the latent sites; the model computes them from draws. All
    results are on the CPU.

    Discrete latents are summed out; `probs` returns their posterior probabilities.

    Global latents, outside the data plate, appear beside the others with values ``(*shape)``, without observations: the
    posterior is ``q(theta) prod_i q(z_i | x_i)``. What needs the joint density of one observation at many values of its latents,
    such as its refined posterior or its evidence, is conditional on the medians of the global latents.

    A result that is NaN or infinite is an error that names the observations. A warning names those whose posterior is
    implausible, or whose moments rest on values of negligible probability.

    Args:
        model: the generative model, set up.
        network: the inference network that gives the posteriors.
        observations: the observations.
        device: where model and network are.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> posterior = vi.posterior(x)
        >>> posterior
        Posterior(FullCovariance, 20 observations, z: (2,))
        >>> posterior.mean["z"].shape, posterior.sample(7, seed=1)["z"].shape
        (torch.Size([20, 2]), torch.Size([7, 20, 2]))
        >>> posterior.select([3, 5]).covariance.shape
        torch.Size([2, 2, 2])
    """

    @property
    def probs(self) -> dict[str, Tensor]:
        r"""The posterior probabilities of each discrete latent, ``(N, *nested, values)``, in the order of ``enumerate_support``.

        They are the mean of :math:`p(y \mid x, z)` over 1,000 draws :math:`z \sim q(z \mid x)`; given the draws, they are exact.
        A site with ``obs_mask=`` has probability one for its value where it is observed.

        Raises:
            NonFiniteError: a probability is NaN or infinite.

        Example:
            >>> import pyro, torch, amortvi as avi
            >>> from pyro import distributions as dist
            >>> def model(x):
            ...     with pyro.plate("data", x.shape[0]):
            ...         y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            ...         z = pyro.sample("z", dist.Normal(torch.tensor([-5.0, 5.0])[y], 1.0))
            ...         pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)
            >>> x = torch.tensor([[-5.0], [5.0], [4.0]])
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(1, []), "diagonal").setup(x, seed=0)
            >>> vi.posterior(x).probs["y"].shape
            torch.Size([3, 2])
        """

        def draw(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
            vector = torch.cat([q.sample(torch.Size([len(span)])) for span in chunk.draw_spans()])
            return discrete_probs(self.model, chunk, self.latents.constrain(vector)[0], theta)

        if not self.model.structure.discrete:
            return {}
        with random_state(_PROBABILITIES, self.device):
            theta = self.network.sample_globals(DRAWS)
            found = self.map_chunks(draw, draws=DRAWS, check_data=True)
        check_finite_results(found, "the probabilities of discrete latents", self.index)
        return found

    @property
    def label_probs(self) -> Tensor:
        """The probabilities ``q(y | x)`` of the labels of each observation from the classifier alone, ``(N, M)``.

        They are those of an observation without its label, whether the label is known or not.

        Raises:
            OptionError: there is no classifier: the estimator has no ``labels=``, or the posterior was refined.
            NonFiniteError: a probability is NaN or infinite.
        """
        if self.network.classifier is None:
            raise OptionError(
                "there is no classifier: pass labels= to AmortizedVI, and use its own posterior instead of a refined one. The "
                "probabilities of discrete latents in general are in posterior.probs."
            )
        found = self.map_chunks(lambda chunk, q: {"probs": self.network.label_probs(chunk.batch)})
        check_finite_results(found, "the probabilities of labels", self.index)
        return found["probs"]

    def sample(
        self, draws: int, *, resample: bool = False, proposals: int | None = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw from the posterior of each observation.

        The deterministic sites of the model are those of the drawn latents. All observations of a draw share its global latents.

        Args:
            draws: the number of draws for each observation.
            resample: whether to draw from the *exact* posterior, as far as ``q`` allows: ``proposals`` draws from ``q`` are
                weighted with the current model, and ``draws`` of them are chosen, with replacement, in proportion to their
                Pareto-smoothed weights. A warning is issued if k-hat shows that the weights of some observations are
                unreliable.
            proposals: the number of draws from ``q`` from which to resample; by default ten per draw, but at least 1,000.
            seed: reproduces the draws and leaves the caller's random state untouched; ``None`` uses that state.

        Returns:
            For each site ``(draws, N, *nested, *event)``; for a global latent ``(draws, *shape)``.

        Raises:
            OptionError: ``draws`` is not a positive integer, ``proposals`` is smaller than ``draws`` or given without
                ``resample``, or ``resample`` is true, but the model has global latents.
            NonFiniteError: a draw is NaN or infinite, or with ``resample``, an observation has a weight that is NaN or infinite,
                or no positive weight.
        """
        count = positive_int("draws", draws)
        number = check_proposals(count, resample, proposals)
        self.check_resamples(resample)
        k_hats: list[Tensor] = []
        with_deterministic = bool(self.deterministic)

        def compute(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
            if number is None:
                vector = torch.cat([q.sample(torch.Size([len(span)])) for span in chunk.draw_spans()])
            else:
                vector, k_hat = resample_chunk(self.model, chunk, q, count, index=self.index)
                k_hats.append(k_hat)
            values = self.latents.constrain(vector)[0]
            return {**values, **deterministic_sites(self.model, chunk, values, theta)} if with_deterministic else values

        with random_state(seed, self.device):
            theta = self.network.sample_globals(count)
            found = self.map_chunks(
                compute,
                draws=number or count,
                observation_dim=1,
                probe=None if number is None else self.probe_weights,
                check_data=number is not None,
            )
        latents = {site.name: found[site.name] for site in self.latents.sites}
        check_finite_results(latents, "the draws", self.index, observation_dim=1)
        if number is not None:
            warn_of_unreliable_draws(torch.cat(k_hats), number)
        shared = {name: value.cpu() for name, value in theta.items()}
        return latents | shared | {name: found[name] for name in found if name not in latents}

    def check_resamples(self, resample: bool) -> None:
        """Raise `OptionError` if draws are to be resampled, but the model has global latents.

        Each draw of the global latents would need proposals of its own.
        """
        shared = [site.name for site in self.model.structure.globals]
        if resample and shared:
            raise OptionError(
                f"resample=True is not possible with the global latents {shared}: the weights of the draws of an observation are "
                f"those given one value of the global latents, and each draw has another. Refine the posteriors instead "
                f"(AmortizedVI.refine), or use a richer family."
            )

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of given values of the latents in the data plate, in nats.

        Args:
            values: for each latent site ``(*S, N, *nested, *event)`` with any sample shape ``*S``. Deterministic sites and
                global latents, as `sample` returns them, are passed over.

        Returns:
            ``log q(z | x)`` in the support of the sites (the Jacobian of the transforms included), ``(*S, N)``.

        Raises:
            DataError: a site is missing or unknown, its shape is wrong, or a value is outside its support.
            NonFiniteError: a log density is NaN or positive infinity.
        """
        if isinstance(values, Mapping) and not set(values) <= self.latents.names:
            others = {*self.deterministic, *(site.name for site in self.model.structure.globals)}
            values = {name: value for name, value in values.items() if name not in others}
        *sample_shape, observations = self.latents.leading_shape(values)
        if observations != len(self):
            raise DataError(f"values are of {observations} observations, but the posterior is of {len(self)}.")
        vector, log_det = self.latents.unconstrain(values)

        def compute(chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
            part = vector.narrow(-2, chunk.rows.start, len(chunk.rows)).to(self.device)
            return {"log_prob": q.log_prob(part)}

        log_prob = self.map_chunks(
            compute,
            draws=torch.Size(sample_shape).numel(),
            observation_dim=len(sample_shape),
            probe=lambda _, q: {"log_prob": q.log_prob(q.sample())},
        )
        found = log_prob["log_prob"] - log_det.cpu()
        # Far from the posterior, the density may round to zero.
        check_rows(undefined(found, len(sample_shape)), "the log density", self.index)
        return found
