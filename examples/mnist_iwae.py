"""Burda, Grosse and Salakhutdinov's Table 1 on MNIST, with fewer passes over the data: VAE (k = 1) and IWAE (k = 5).

One stochastic layer of 50 latents; tanh layers 200-200 in encoder and decoder; images binarized at each pass; batches
of 20; Adam with epsilon 1e-4; stage i has 3^i passes with the learning rate 0.001 * 10^(-i / 7). The paper runs eight
stages, 3,280 passes in total; `--stages 5` runs the first 121 of them, which takes a quarter of an hour per objective
on one core. Prints the negative log-likelihood of test images from 5,000 importance samples and the number of active
units (Var_x E[z | x] > 0.01) beside those of the paper, and the paired difference. Needs the IDX files of MNIST: pass
`--data FOLDER`, or set the environment variable AMORTVI_DATA.

    python examples/mnist_iwae.py [--stages 5] [--test-images 2000] [--out runs/mnist_iwae]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

import amortvi as avi
from amortvi.training import ScheduleFactory

LATENTS, HIDDEN, BATCH = 50, 200, 20
PUBLISHED = {"k = 1": (86.76, 19), "k = 5": (85.54, 22)}
"""Negative log-likelihood and active units after 3,280 passes."""


class Binarized(Dataset[Tensor]):
    """Images binarized at each access: a pixel is white with probability equal to its intensity."""

    def __init__(self, intensities: Tensor) -> None:
        self.intensities = intensities

    def __len__(self) -> int:
        return len(self.intensities)

    def __getitem__(self, rows: list[int]) -> Tensor:
        return torch.bernoulli(self.intensities[rows])


def make_model(mean_image: Tensor) -> avi.models.VAE:
    """Return the generative model, with the output bias initialized to the log odds of the mean image."""
    output = nn.Linear(HIDDEN, len(mean_image))
    with torch.no_grad():
        output.bias.copy_(torch.logit(mean_image.clamp(0.001, 0.999)))
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), output)
    return avi.models.VAE(decoder, LATENTS)


def make_encoder(pixels: int) -> nn.Module:
    """Return the encoder."""
    return nn.Sequential(nn.Linear(pixels, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())


def make_optimizer(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return Adam with the paper's epsilon."""
    return torch.optim.Adam(parameters, lr=lr, eps=1e-4)


def make_schedule(stages: int) -> ScheduleFactory:
    """Return the schedule of stages of 1, 3, 9, ... passes with decreasing learning rates."""
    rates = [10 ** (-stage / 7) for stage in range(stages) for _ in range(3**stage)]
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: rates[min(epoch, len(rates) - 1)]
    )


def main() -> None:
    """Train, evaluate, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="the folder of MNIST's IDX files")
    parser.add_argument("--stages", type=int, default=5)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--only", choices=["1", "5"], help="train only one of the two")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_iwae"))
    arguments = parser.parse_args()
    try:
        data = avi.datasets.mnist(arguments.data)
    except avi.errors.DataError as error:
        raise SystemExit(f"{error}") from None
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(data.x_test), generator=generator)[: arguments.test_images]
    x_test = torch.bernoulli(data.x_test[chosen], generator=generator)
    images = Binarized(data.x_train)
    loader = DataLoader(images, sampler=BatchSampler(RandomSampler(images), BATCH, drop_last=False), batch_size=None)
    passes = sum(3**stage for stage in range(arguments.stages))
    objectives = {"k = 1": avi.objectives.ELBO(gradient="reparameterized"), "k = 5": avi.objectives.IWAE(5)}

    rows, likelihoods = {}, {}
    for name, objective in objectives.items():
        if arguments.only and name != f"k = {arguments.only}":
            continue
        torch.manual_seed(0)
        vi = avi.AmortizedVI(make_model(data.x_train.mean(0)), make_encoder(x_test.shape[1]), "diagonal")
        began = time.perf_counter()
        vi.fit(
            loader,
            epochs=passes,
            objective=objective,
            standardize=False,
            optimizer=make_optimizer,
            lr_schedule=make_schedule(arguments.stages),
            compile=True,
            seed=0,
        )
        minutes = (time.perf_counter() - began) / 60
        vi.save(out / f"{name.replace(' ', '')}.safetensors")
        table = vi.evaluate(x_test, particles=arguments.samples, seed=0)
        table.to_csv(out / f"{name.replace(' ', '')}.csv")
        active = int((vi.posterior(data.x_test).mean["z"].var(0) > 0.01).sum())
        likelihoods[name] = -table["iwae"]
        nll, units = PUBLISHED[name]
        rows[name] = {
            "passes": passes,
            "minutes": minutes,
            "NLL": likelihoods[name].mean(),
            "NLL se": likelihoods[name].sem(),
            "active": active,
            "NLL, paper": nll,
            "active, paper": units,
            "passes, paper": 3280,
        }
        print(json.dumps({name: rows[name]}), flush=True)
    print(pd.DataFrame(rows).T.round(2).to_string())
    if len(rows) == 2:
        difference = likelihoods["k = 1"] - likelihoods["k = 5"]
        print(f"IWAE (k = 5) improves on the VAE by {difference.mean():.2f} +- {difference.sem():.2f} nats per image.")


if __name__ == "__main__":
    main()
