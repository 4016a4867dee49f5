"""Models with discrete latents, each with its log joint density written by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.data import Batch
from amortvi.model import Model

N = 6
WEIGHTS = torch.tensor([0.2, 0.3, 0.5])
MEANS = torch.tensor([-1.5, 0.0, 2.0])
SCALES = torch.tensor([0.5, 1.0, 0.7])
VALUES = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
X = VALUES[:, 0]
TOPICS = torch.softmax(torch.randn(3, 5, generator=torch.Generator().manual_seed(1)), -1)
WORDS = torch.randint(5, (N, 7), generator=torch.Generator().manual_seed(2))
TRANSITIONS = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
CLASSES = torch.tensor([0, -1, 2, 1, -1, -1])


@dataclass(frozen=True)
class Case:
    """A model, its arguments, the terms of its log joint density, and that density given ``z``, ``(K, N, *event)``."""

    program: Callable[..., None]
    args: tuple[Tensor, ...]
    terms: set[str]
    log_joint: Callable[[Tensor], Tensor]
    event: tuple[int, ...] = ()

    def model(self) -> Model:
        return Model(self.program).setup(self.batch, N)

    @property
    def batch(self) -> Batch:
        return Batch(self.args)


def normal(loc: Tensor | float, scale: Tensor | float) -> dist.Normal:
    return dist.Normal(loc, scale)


def mixture_likelihood(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", normal(0.0, 1.0))
        y = pyro.sample("y", dist.Categorical(WEIGHTS))
        pyro.sample("x", normal(z + MEANS[y], SCALES[y]), obs=x)


def _mixture_likelihood(z: Tensor) -> Tensor:
    each = normal(z.unsqueeze(-1) + MEANS, SCALES).log_prob(X.unsqueeze(-1)) + WEIGHTS.log()
    return each.logsumexp(-1) + normal(0.0, 1.0).log_prob(z)


def mixture_prior(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.Categorical(WEIGHTS))
        z = pyro.sample("z", normal(MEANS[y], SCALES[y]))
        pyro.sample("x", normal(z, 0.8), obs=x)


def _mixture_prior(z: Tensor) -> Tensor:
    each = normal(MEANS, SCALES).log_prob(z.unsqueeze(-1)) + WEIGHTS.log()
    return each.logsumexp(-1) + normal(z, 0.8).log_prob(X)


def prior_and_likelihood(x: Tensor) -> None:
    """The class determines both the latent and the scale of the observation."""
    with pyro.plate("data", x.shape[0]):
        y = pyro.sample("y", dist.OneHotCategorical(WEIGHTS))
        z = pyro.sample("z", normal(y @ MEANS, y @ SCALES))
        pyro.sample("x", normal(z, y @ SCALES.flip(0)), obs=x)


def _prior_and_likelihood(z: Tensor) -> Tensor:
    z, x = z.unsqueeze(-1), X.unsqueeze(-1)
    each = WEIGHTS.log() + normal(MEANS, SCALES).log_prob(z) + normal(z, SCALES.flip(0)).log_prob(x)
    return each.logsumexp(-1)


def two_sites(x: Tensor) -> None:
    """The probabilities of the second discrete latent depend on the first, and on ``z``."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", normal(0.0, 1.0))
        a = pyro.sample("a", dist.Categorical(WEIGHTS))
        b = pyro.sample("b", dist.Bernoulli(logits=z + MEANS[a]))
        pyro.sample("x", normal(MEANS[a] * b + z, 0.5), obs=x)


def _two_sites(z: Tensor) -> Tensor:
    terms = []
    for a in range(3):
        for b in (0.0, 1.0):
            log_prob = WEIGHTS[a].log() + dist.Bernoulli(logits=z + MEANS[a]).log_prob(torch.tensor(b))
            terms.append(log_prob + normal(MEANS[a] * b + z, 0.5).log_prob(X))
    return torch.stack(terms).logsumexp(0) + normal(0.0, 1.0).log_prob(z)


def words(x: Tensor) -> None:
    """Documents with a logistic-normal distribution of topics; each word has its own topic."""
    with pyro.plate("documents", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("words", x.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(logits=z))
            pyro.sample("x", dist.Categorical(TOPICS[topic]), obs=x)


def _words(z: Tensor) -> Tensor:
    mixture = dist.Categorical(z.softmax(-1) @ TOPICS)
    likelihood = mixture.log_prob(WORDS.T.reshape(7, 1, N)).sum(0)
    return likelihood + dist.Normal(torch.zeros(3), 1.0).to_event(1).log_prob(z)


def chain(x: Tensor) -> None:
    """A hidden Markov chain whose emissions are shifted by ``z``."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", normal(0.0, 1.0))
        state = None
        for t in pyro.markov(range(x.shape[1])):
            state = pyro.sample(f"y_{t}", dist.Categorical(WEIGHTS if state is None else TRANSITIONS[state]))
            pyro.sample(f"x_{t}", normal(z + MEANS[state], SCALES[state]), obs=x[:, t])


def _chain(z: Tensor) -> Tensor:
    """The forward algorithm."""
    emissions = normal(z.unsqueeze(-1) + MEANS, SCALES)
    forward = WEIGHTS.log() + emissions.log_prob(VALUES[:, :1])
    for t in range(1, VALUES.shape[1]):
        moved = (forward.unsqueeze(-1) + TRANSITIONS.log()).logsumexp(-2)
        forward = moved + emissions.log_prob(VALUES[:, t : t + 1])
    return forward.logsumexp(-1) + normal(0.0, 1.0).log_prob(z)


def some_labels(x: Tensor, y: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", normal(0.0, 1.0))
        label = pyro.sample("y", dist.Categorical(WEIGHTS), obs=y, obs_mask=y >= 0)
        pyro.sample("x", normal(z + MEANS[label], SCALES[label]), obs=x)


def _some_labels(z: Tensor) -> Tensor:
    each = normal(z.unsqueeze(-1) + MEANS, SCALES).log_prob(X.unsqueeze(-1)) + WEIGHTS.log()
    labelled = each[..., torch.arange(N), CLASSES.clamp(min=0)]
    return torch.where(CLASSES >= 0, labelled, each.logsumexp(-1)) + normal(0.0, 1.0).log_prob(z)


CHAIN = ", ".join([*(f"y_{t}" for t in range(4)), *(f"x_{t}" for t in range(4))])
CASES = {
    "a mixture likelihood": Case(mixture_likelihood, (X,), {"z", "y, x"}, _mixture_likelihood),
    "a mixture prior": Case(mixture_prior, (X,), {"y, z", "x"}, _mixture_prior),
    "prior and likelihood": Case(prior_and_likelihood, (X,), {"y, z", "y, x"}, _prior_and_likelihood),
    "two sites": Case(two_sites, (X,), {"z", "a, b, x"}, _two_sites),
    "words": Case(words, (WORDS,), {"z", "topic, x"}, _words, (3,)),
    "a chain": Case(chain, (VALUES,), {"z", CHAIN}, _chain),
    "some labels": Case(some_labels, (X, CLASSES), {"z", "y", "y_observed", "y_unobserved, x"}, _some_labels),
}
