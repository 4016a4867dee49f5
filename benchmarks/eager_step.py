"""How long is a training step, beside `pyro.infer.SVI` with a hand-written guide?

Digits, a VAE 64-64-8, batches of 64, one thread. Pyro's SVI with `Trace_ELBO`, as it is and with its checks off, against
the whole `AmortizedVI.fit` with a diagonal and a full-covariance posterior. Medians over interleaved repetitions.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import amortvi as avi

LATENTS, BATCH, EPOCHS, REPETITIONS = 8, 64, 5, 9


def make_model() -> avi.models.VAE:
    """Return the generative model."""
    return avi.models.VAE(nn.Sequential(nn.Linear(LATENTS, 64), nn.ReLU(), nn.Linear(64, 64)), LATENTS)


def amortvi_epochs(family: str, x: Tensor) -> Callable[[], None]:
    """Return a function that fits for `EPOCHS`, with all that a fit does."""
    vi = avi.AmortizedVI(make_model(), avi.encoders.MLP(64, [64]), family)

    def epochs() -> None:
        vi.fit(x, epochs=EPOCHS, batch_size=BATCH, progress=False)

    return epochs


def pyro_epochs(x: Tensor, *, checks: bool) -> Callable[[], None]:
    """Return a function that takes the steps of `EPOCHS` with `pyro.infer.SVI`."""
    model = make_model()
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * LATENTS))

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    state: dict[str, Any] = {"params": {}, "constraints": {}}

    def epochs() -> None:
        with pyro.validation_enabled(checks), pyro.get_param_store().scope(state):
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(x)).split(BATCH):
                    svi.step(x[rows])

    return epochs


def main() -> None:
    """Measure, print and save."""
    torch.set_num_threads(1)
    x = avi.datasets.digits().x_train
    competitors = {
        "pyro SVI, Trace_ELBO": pyro_epochs(x, checks=True),
        "pyro SVI, Trace_ELBO, checks off": pyro_epochs(x, checks=False),
        "amortvi fit, diagonal": amortvi_epochs("diagonal", x),
        "amortvi fit, full": amortvi_epochs("full", x),
    }
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    times: dict[str, list[float]] = {name: [] for name in competitors}
    for epochs in competitors.values():
        epochs()
    for _ in range(REPETITIONS):
        for name, epochs in competitors.items():
            start = time.perf_counter()
            epochs()
            times[name].append(1000 * (time.perf_counter() - start) / steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians["pyro SVI, Trace_ELBO"]
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    for name, median in medians.items():
        print(f"{name:36} {median:6.2f} ms a step   {reference / median:5.2f} times as fast as Pyro's SVI")
    out = Path("runs/benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    result = {"machine": platform.platform(), "torch": torch.__version__, "milliseconds": medians}
    (out / "eager_step.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
