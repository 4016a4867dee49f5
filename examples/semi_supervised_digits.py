"""Digits of which few have labels: the models M2 and M1+M2 of Kingma, Rezende, Mohamed and Welling (2014) on MNIST.

M2 is a VAE whose decoder reads the label as well as the latents. Labels are an argument of the model, -1 where one is
missing, and `labels="y"` is all that `AmortizedVI` has to know. M1+M2 first fits a VAE to the images alone (M1), and
then M2 to the posterior means of its latents. Prints the error of the classifier q(y | x) on the test images, mean and
standard deviation over random choices of the labelled images, beside the errors in the paper and those that Pyro's
tutorial (https://pyro.ai/examples/ss-vae.html) reports for M2. Needs MNIST; see `amortvi.datasets.mnist`. On one core,
a run of M2 takes about seven minutes, one of M1+M2 about four, and M1 itself about two.

    python examples/semi_supervised_digits.py [--method M2 M1+M2] [--labels 100 600 1000 3000] [--draws 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi

DIGITS, LATENTS = 10, 50
PUBLISHED = {
    100: {"M2 (paper)": 11.97, "M1+M2 (paper)": 3.33, "M2 (Pyro)": 6.81},
    600: {"M2 (paper)": 4.94, "M1+M2 (paper)": 2.59, "M2 (Pyro)": 5.63},
    1000: {"M2 (paper)": 3.60, "M1+M2 (paper)": 2.40, "M2 (Pyro)": 5.13},
    3000: {"M2 (paper)": 3.92, "M1+M2 (paper)": 2.18, "M2 (Pyro)": 4.18},
}


class LabelledVAE(nn.Module):
    """M2: the label and latents of an image determine the distribution of its data.

    Args:
        outputs: the number of values that `likelihood` reads.
        likelihood: maps the output of the decoder, ``(..., outputs)``, to the distribution of the data.
        hidden: the width of the decoder.
    """

    def __init__(self, outputs: int, likelihood: Callable[[Tensor], dist.Distribution], *, hidden: int = 256) -> None:
        super().__init__()
        self.of_latents, self.of_label = nn.Linear(LATENTS, hidden), nn.Embedding(DIGITS, hidden)
        self.output = nn.Linear(hidden, outputs)
        self.likelihood = likelihood

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Run the model on data ``x``, ``(B, features)``, and labels ``y``, ``(B,)``, -1 where one is missing."""
        with pyro.plate("images", x.shape[0]):
            prior = dist.Categorical(logits=torch.zeros(DIGITS))
            digit = pyro.sample("y", prior, obs=y.clamp(min=0), obs_mask=y >= 0)
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            hidden = torch.relu(self.of_latents(z) + self.of_label(digit))
            pyro.sample("x", self.likelihood(self.output(hidden)), obs=x)


def pixels(logits: Tensor) -> dist.Distribution:
    """Return the distribution of binary pixels."""
    return dist.Bernoulli(logits=logits).to_event(1)


def features(output: Tensor) -> dist.Distribution:
    """Return the distribution of the features of M1."""
    loc, log_scale = output.chunk(2, dim=-1)
    return dist.Normal(loc, log_scale.clamp(-4.0, 3.0).exp()).to_event(1)


def with_few_labels(labels: Tensor, number: int, seed: int) -> Tensor:
    """Return the labels with all but ``number`` replaced by -1, as many of each digit."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = torch.cat([order[labels[order] == digit][: number // DIGITS] for digit in range(DIGITS)])
    return torch.full_like(labels, -1).index_copy(0, kept, labels[kept])


def fit_m2(images: Tensor, y: Tensor, *, epochs: int, seed: int) -> avi.AmortizedVI:
    """Fit M2 to binary images; its classifier is a convolutional network."""
    classifier = nn.Sequential(avi.encoders.Conv(28, 128), nn.ReLU(), nn.Dropout())
    model, encoder = LabelledVAE(images.shape[1], pixels), avi.encoders.MLP(images.shape[1], [256])
    vi = avi.AmortizedVI(model, encoder, "diagonal", labels=avi.Labels("y", classifier))
    return vi.fit((images, y), epochs=epochs, batch_size=200, lr=3e-3, standardize=False, seed=seed, progress=False)


def fit_m1(images: Tensor, *, epochs: int = 12) -> avi.AmortizedVI:
    """Fit a VAE to binary images without labels."""
    decoder = nn.Sequential(nn.Linear(LATENTS, 500), nn.ReLU(), nn.Linear(500, images.shape[1]))
    model = avi.models.VAE(decoder, latent_dim=LATENTS, likelihood="bernoulli")
    vi = avi.AmortizedVI(model, avi.encoders.MLP(images.shape[1], [500, 500]), "diagonal")
    return vi.fit(images, epochs=epochs, batch_size=200, standardize=False, seed=0, progress=False)


def fit_m2_on_m1(means: Tensor, y: Tensor, *, epochs: int, seed: int) -> avi.AmortizedVI:
    """Fit M2 to the posterior means of M1."""
    classifier = avi.encoders.MLP(LATENTS, [256, 256])
    model, encoder = LabelledVAE(2 * LATENTS, features), avi.encoders.MLP(LATENTS, [256])
    vi = avi.AmortizedVI(model, encoder, "diagonal", labels=avi.Labels("y", classifier))
    return vi.fit((means, y), epochs=epochs, batch_size=200, lr=3e-3, seed=seed, progress=False)


def main() -> None:
    """Fit, and print one row for each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=["M2", "M1+M2"], default=["M2", "M1+M2"])
    parser.add_argument("--labels", nargs="+", type=int, default=[100, 600, 1000, 3000])
    parser.add_argument("--draws", type=int, default=3, help="random choices of the labelled images")
    parser.add_argument("--epochs", type=int, nargs=2, default=[12, 20], help="passes over the data of M2 and M1+M2")
    parser.add_argument("--images", type=int, default=60_000, help="the number of training images")
    arguments = parser.parse_args()

    try:
        images = avi.datasets.mnist()
    except avi.errors.DataError as error:
        raise SystemExit(f"{error}") from None
    train, test = ((x > 0.5).to(x.dtype) for x in (images.x_train[: arguments.images], images.x_test))
    labels = images.labels_train[: arguments.images]
    torch.manual_seed(0)
    m1 = fit_m1(train) if "M1+M2" in arguments.method else None
    rows = {}
    for number in arguments.labels:
        rows[number] = dict(PUBLISHED.get(number, {}))
        for method in arguments.method:
            began, errors = time.perf_counter(), []
            for seed in range(arguments.draws):
                torch.manual_seed(seed)
                y = with_few_labels(labels, number, seed)
                if m1 is None or method == "M2":
                    vi, x = fit_m2(train, y, epochs=arguments.epochs[0], seed=seed), test
                else:
                    x = m1.posterior(test).mean["z"]
                    vi = fit_m2_on_m1(m1.posterior(train).mean["z"], y, epochs=arguments.epochs[1], seed=seed)
                wrong = vi.predict_proba(x).argmax(-1) != images.labels_test
                errors.append(100 * float(wrong.float().mean()))
                minutes = (time.perf_counter() - began) / 60 / len(errors)
                print(f"{method}, {number} labels, draw {seed}: {errors[-1]:.2f} % ({minutes:.1f} minutes)", flush=True)
            rows[number] |= {method: pd.Series(errors).mean(), f"{method} sd": pd.Series(errors).std()}
    print("\nTest error in percent")
    print(pd.DataFrame(rows).T.rename_axis("labels").round(2).to_string())


if __name__ == "__main__":
    main()
