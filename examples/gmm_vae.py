"""Do the components of a mixture prior find the digits without labels?

Trains a VAE whose latent has a mixture of ten normal distributions as its prior, whose parameters are learned. The component of
each image is a discrete latent, which amortvi sums out exactly. Prints how well the most probable component of each test image
agrees with its label under the best assignment of components to digits, for several starts, and the same for k-means on the
pixels, which is ahead: nothing in the ELBO asks the components to be digits. Takes about half a minute on two cores.

    python examples/gmm_vae.py [--epochs 150] [--starts 3]
"""

from __future__ import annotations

import argparse

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule, PyroParam
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import amortvi as avi

COMPONENTS = 10
LATENTS = 8


class GMMVAE(PyroModule):
    """A VAE with a learned mixture of normal distributions as its prior."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(LATENTS, 512), nn.ReLU(), nn.Linear(512, 64))
        self.logits = nn.Parameter(torch.zeros(COMPONENTS))
        self.locs = nn.Parameter(torch.randn(COMPONENTS, LATENTS))
        self.scales = PyroParam(torch.ones(COMPONENTS, LATENTS), constraint=dist.constraints.positive)

    def forward(self, x: Tensor) -> None:
        """Observe images ``(B, 64)``."""
        with pyro.plate("data", x.shape[0]):
            # In amortvi's runs, y has all ten values at once, in a dimension to the left of the plate.
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(self.locs[y], self.scales[y]).to_event(1))
            pyro.sample("x", dist.ContinuousBernoulli(logits=self.decoder(z)).to_event(1), obs=x)


def accuracy(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of observations whose cluster is assigned to their label, by the best one-to-one assignment."""
    counts = np.zeros((COMPONENTS, COMPONENTS), dtype=int)
    np.add.at(counts, (clusters, labels), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(labels))


def main() -> None:
    """Fit and compare clusters with labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()

    digits = avi.datasets.digits()
    labels = digits.labels_test.numpy()
    for start in range(arguments.starts):
        torch.manual_seed(start)
        vi = avi.AmortizedVI(GMMVAE(), avi.encoders.MLP(64, [128, 64]), family="diagonal")
        vi.fit(digits.x_train, epochs=arguments.epochs, batch_size=64, lr=2e-3, seed=start)
        elbo = float(vi.evaluate(digits.x_test, seed=0)["elbo"].mean())
        probs = vi.posterior(digits.x_test).probs["y"]
        clusters = probs.argmax(-1)
        print(
            f"start {start}: held-out ELBO {elbo:.2f} nats per digit, {len(clusters.unique())} components in use, mean "
            f"probability of the best {probs.amax(-1).mean():.2f}, clustering accuracy {accuracy(clusters.numpy(), labels):.2f}"
        )
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        print("install scikit-learn to compare with k-means")
        return
    k_means = KMeans(COMPONENTS, n_init=10, random_state=0).fit(digits.x_train.numpy())
    print(f"k-means: clustering accuracy {accuracy(k_means.predict(digits.x_test.numpy()), labels):.2f}")


if __name__ == "__main__":
    main()
